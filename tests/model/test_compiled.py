"""`compile_model`: one graph for any batch, forward and backward, with the numbers of the plain path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import both, make_config, scatter
from tolerance import FP32, FP64, assert_close, assert_gradients_close, gradients
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lxmert_fast import accelerate, compile_model
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

SMALL = {"l_layers": 1, "r_layers": 1, "x_layers": 1, "max_position_embeddings": 20}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def random_batches(count: int, dtype: torch.dtype = torch.float32) -> Iterator[dict[str, Any]]:
    """Pairs, texts, lengths and images change from batch to batch.

    In the first one no two sizes are alike and none is 1, for which PyTorch would make graphs of their own;
    later ones have one image, and as many images as pairs.
    """
    generator = torch.Generator().manual_seed(1)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    for _ in range(count):
        pairs, length = draw(2, 12), draw(3, 20)
        images = draw(1, pairs + 1)
        lengths = torch.randint(1, length + 1, (pairs, 1), generator=generator)
        yield {
            "input_ids": torch.randint(1, 97, (pairs, length), generator=generator),
            "attention_mask": (torch.arange(length) < lengths).long(),
            "visual_feats": torch.rand(images, 6, 20, generator=generator).to(dtype),
            "visual_pos": torch.rand(images, 6, 4, generator=generator).to(dtype),
            "image_index": torch.arange(pairs) % images,
            "labels": torch.randint(11, (pairs,), generator=generator),
        }


@torch.no_grad()
def test_batches_of_any_shape_share_a_few_graphs():
    """PyTorch makes another one only for a size of 1."""
    plain = scatter(LxmertForQuestionAnswering(make_config(**SMALL))).eval()
    compiled = compile_model(scatter(LxmertForQuestionAnswering(make_config(**SMALL))).eval())
    for batch in random_batches(8):
        found, wanted = compiled(**batch), plain(**batch)
        assert_close(found.question_answering_score, wanted.question_answering_score, tolerance=FP32)
    assert not counters["graph_break"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 2


def test_gradients():
    plain = scatter(LxmertForQuestionAnswering(make_config(**SMALL))).double()
    model = scatter(LxmertForQuestionAnswering(make_config(**SMALL))).double()
    compiled = compile_model(model, backend="aot_eager")
    for batch in random_batches(2, torch.float64):
        for model in (plain, compiled):
            model.zero_grad()
            model(**batch).loss.backward()
        assert_gradients_close(gradients(compiled), gradients(plain), tolerance=FP64)


@torch.no_grad()
def test_a_swapped_in_model():
    _, theirs = both(LxmertForQuestionAnswering, make_config(**SMALL))
    batch = next(random_batches(1))
    expanded = batch | {name: batch[name][batch["image_index"]] for name in ("visual_feats", "visual_pos")}
    expanded.pop("image_index")
    wanted = theirs(**expanded).question_answering_score
    handle = accelerate(theirs)
    assert_close(compile_model(theirs, backend="aot_eager")(**batch).question_answering_score, wanted)
    handle.revert()
    assert "run" not in vars(theirs.lxmert)


@pytest.mark.parametrize("kind", [LxmertForQuestionAnswering, LxmertForPreTraining])
def test_a_whole_model_in_one_graph(kind: Any):
    """Without a plan: `torch.compile(model, fullgraph=True, dynamic=True)`; traced, not compiled."""
    model = scatter(kind(make_config(**SMALL))).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in random_batches(2):
        if kind is LxmertForPreTraining:
            batch["ans"] = batch.pop("labels")
        assert_close(scores(compiled(**batch)), scores(model(**batch)), tolerance=FP32)


def scores(output: Any) -> Tensor:
    return output.question_answering_score


def test_what_is_not_of_this_library():
    with pytest.raises(InputError, match="compile_model got a Linear"):
        compile_model(nn.Linear(2, 2))
