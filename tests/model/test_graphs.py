"""The graph runner with a graph that is none: what is captured is run again, from the same buffers.

So everything is tested but CUDA's part: padding to few sizes, what is copied where, gradients at addresses
that stay, and what is done where no graph serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import make_config, scatter
from tolerance import FP32, assert_close, assert_gradients_close, gradients
from torch import Tensor

from lxmert_fast.bench.contenders import OURS
from lxmert_fast.bench.workloads import WORKLOADS, batches, config_for
from lxmert_fast.errors import InputError
from lxmert_fast.graphs import GraphRunner
from lxmert_fast.kernels.dispatch import implementation
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.tables import Sizes, bucket


class Fake:
    """Runs it again instead of a graph, into the tensor that it gave first."""

    def __init__(self) -> None:
        self.captured = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        self.captured += 1
        result = run()

        def replay() -> None:
            result.copy_(run())

        return result, replay


def setting(name: str, dropout: float = 0.0, pairs: int = 12) -> tuple[Any, Any, Callable[[int], dict]]:
    """A tiny model of a workload, its runner, and batches by number."""
    workload = WORKLOADS[name].sized(pairs=pairs)
    config = config_for(workload, tiny=True)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    model = scatter(OURS[workload.task](config)).train()
    return (
        model,
        GraphRunner(model, capture=Fake()),
        lambda seed: batches(workload, config, seed=seed, labels=True).ours,
    )


@pytest.fixture(autouse=True)
def operators():
    with implementation("operator"):
        yield


@pytest.mark.parametrize("name", ["vqa", "gqa", "nlvr2", "captions", "captions4"])
def test_steps_of_many_batches_are_those_without_a_graph(name: str):
    """Losses and all gradients, of batches whose sizes differ, through the buffers of those before."""
    model, runner, batch = setting(name)
    options = {"loss_only": True} if "captions" in name else {}
    for seed in range(4):
        model.zero_grad()
        wanted = model(**batch(seed), **options).loss
        (wanted * 0.5).backward()
        wanted_gradients = {n: None if g is None else g.clone() for n, g in gradients(model).items()}
        runner.zero_grad()
        assert_close(runner.step(scale=0.5, **batch(seed)), wanted, what=f"loss {seed}")
        assert_gradients_close(gradients(model), wanted_gradients, tolerance=FP32)
    assert runner.report["replayed"] == 4
    assert set(runner.report) == {"captured", "replayed"}


@pytest.mark.parametrize("name", ["vqa", "nlvr2"])
def test_scores_are_those_without_a_graph(name: str):
    model, runner, batch = setting(name)
    model.eval()
    kept = []
    for seed in (0, 1, 2):
        asked = {key: value for key, value in batch(seed).items() if key != "labels"}
        with torch.no_grad():
            output = model(**asked)
        scores = runner.infer(**asked)
        kept.append((scores, scores.clone()))
        assert_close(scores, output.get("question_answering_score", output.get("logits")))
    # what was given stays as it is when the graph runs again
    assert all(torch.equal(given, copy) for given, copy in kept)


def test_after_a_few_batches_no_new_graph_is_needed():
    _, runner, batch = setting("captions", pairs=48)
    for seed in range(12):
        runner.step(**batch(seed))
    captured = runner.report["captured"]
    for seed in range(12, 20):
        runner.step(**batch(seed))
    assert runner.report["captured"] - captured <= 1


def test_gradients_add_up_until_they_are_zeroed():
    model, runner, batch = setting("vqa")
    runner.step(scale=0.5, **batch(0))
    once = {n: g.clone() for n, g in gradients(model).items() if g is not None}
    addresses = {n: p.grad.data_ptr() for n, p in model.named_parameters() if p.grad is not None}
    runner.step(scale=0.5, **batch(0))
    for n, g in gradients(model).items():
        if g is not None:
            assert_close(g, 2 * once[n], floor=1e-3, what=n)
    model.zero_grad(set_to_none=True)  # a loop that knows nothing of graphs
    runner.step(scale=0.5, **batch(0))
    for n, p in model.named_parameters():
        if p.grad is not None:
            assert p.grad.data_ptr() == addresses[n], n
            assert_close(p.grad, once[n], floor=1e-3, what=n)


def test_gradients_from_elsewhere_are_added_to():
    model, runner, batch = setting("vqa")
    runner.step(**batch(0))
    name, p = next((n, p) for n, p in model.named_parameters() if p.grad is not None)
    own = p.grad.clone()
    p.grad = torch.ones_like(p)
    runner.step(**batch(0))
    assert_close(p.grad, own + 1, what=name)


def test_each_run_draws_its_own_dropout_and_the_generator_governs_it():
    _, runner, batch = setting("vqa", dropout=0.2)
    runner.step(**batch(0))
    state = torch.get_rng_state()
    first, second = runner.step(**batch(0)), runner.step(**batch(0))
    torch.set_rng_state(state)
    assert torch.equal(runner.step(**batch(0)), first)
    assert not torch.equal(first, second)


def test_weights_that_changed_are_joined_anew():
    model, runner, batch = setting("vqa")
    model.eval()
    asked = {key: value for key, value in batch(0).items() if key != "labels"}
    runner.infer(**asked)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
        wanted = model(**asked).question_answering_score
    assert_close(runner.infer(**asked), wanted)
    assert runner.report["captured"] == 2


def test_weights_written_after_a_training_step_are_joined_anew():
    """Through `.data`, as DeepSpeed's optimizers write them: no version counter moves."""
    model, runner, batch = setting("vqa")
    asked = {key: value for key, value in batch(0).items() if key != "labels"}
    model.eval()
    runner.infer(**asked)
    model.train()
    runner.step(**batch(0))
    for p in model.parameters():
        p.data.mul_(1.1)
    model.eval()
    found = runner.infer(**asked)
    assert runner.report["captured"] == 3
    with torch.no_grad():
        assert_close(found, model(**asked).question_answering_score)


def test_what_no_graph_serves_runs_without_one_and_says_so():
    model, _, batch = setting("vqa")
    wanted = model(**batch(0)).loss
    reasons: dict[str, Callable[[], Any]] = {
        "more than 0 sizes of batch": lambda: GraphRunner(model, graphs=0, capture=Fake()),
        "share_in_training is False": lambda: GraphRunner(model, capture=Fake()),
        "a module has hooks": lambda: GraphRunner(model, capture=Fake()),
    }
    for reason, make in reasons.items():
        runner = make()
        model.lxmert.share_in_training = "share" not in reason
        handle = model.lxmert.pooler.register_forward_hook(lambda *_: None) if "hooks" in reason else None
        with pytest.warns(UserWarning, match=reason):
            loss = runner.step(**batch(0))
        runner.step(**batch(0))
        assert_close(loss, wanted)
        assert runner.report == {f"without a graph: {reason}": 2}
        if handle is not None:
            handle.remove()
    model.lxmert.share_in_training = True
    with implementation("reference"), pytest.warns(UserWarning, match="operators are not in use"):
        GraphRunner(model, capture=Fake()).step(**batch(0))


def test_refusals():
    with pytest.raises(InputError, match="GraphRunner got a LxmertModel, wanted one of LxmertForQuestion"):
        GraphRunner(LxmertModel(make_config()))
    _, runner, batch = setting("vqa")
    with pytest.raises(InputError, match="training mode"):
        runner.infer(**batch(0))


def test_reset_forgets_every_graph():
    _, runner, batch = setting("vqa")
    runner.step(**batch(0))
    runner.reset()
    runner.step(**batch(0))
    assert runner.report["captured"] == 2


def test_buckets_waste_little_and_are_few():
    sizes = {bucket(n) for n in range(1, 4097)}
    assert all(n <= bucket(n) <= max(n + 15, n * 9 / 8) for n in range(1, 4097))
    assert len([size for size in sizes if 2048 < size <= 4096]) == 8


def test_sizes_are_remembered_and_given_up_when_far_too_large():
    sizes = Sizes()
    assert sizes("a", 100) == bucket(100)
    grown = sizes("a", 130)
    assert grown >= 130
    assert sizes("a", 120) == grown
    assert sizes("b", 120) == bucket(120)
    assert sizes("a", 20) < grown


def test_a_batch_that_does_not_fit_is_named_before_anything_runs():
    _, runner, batch = setting("vqa")
    good = batch(0)
    for change, words in (
        ({"visual_feats": None}, "lacks visual_feats"),
        ({"visual_pos": good["visual_pos"][:, :-1]}, "visual_pos has shape"),
        ({"image_index": good["image_index"] + 99}, "image_index.* is 99"),
        ({"image_index": good["image_index"][:-1]}, "pairs"),
    ):
        with pytest.raises(InputError, match=words):
            runner.step(**good | change)
    assert not runner.report


def test_a_graph_holds_the_joined_weights_that_it_reads():
    """A call with gradients forgets them; the graph still reads their memory."""
    model, runner, batch = setting("vqa")
    model.eval()
    asked = {key: value for key, value in batch(0).items() if key != "labels"}
    runner.infer(**asked)
    (slot,) = runner._slots.values()
    held = [weight.data_ptr() for weight in slot.weights]
    assert held
    model(**batch(0)).loss.backward()
    runner.infer(**asked)
    assert [weight.data_ptr() for weight in slot.weights] == held
    assert runner.report["captured"] == 1
