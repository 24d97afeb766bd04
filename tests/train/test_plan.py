"""The plan's arithmetic by hand, its choices, its command and its page."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lxmert_fast.bench.workloads import batches, workload
from lxmert_fast.cli import app
from lxmert_fast.errors import InputError
from lxmert_fast.flops import forward_flops
from lxmert_fast.models import LxmertConfig, LxmertForPreTraining
from lxmert_fast.pages import parts
from lxmert_fast.train.curves import points
from lxmert_fast.train.deepspeed_engine import deepspeed_config
from lxmert_fast.train.launched import cut
from lxmert_fast.train.memory import ModelSize, Partition, rank_memory
from lxmert_fast.train.plan import Estimate, estimate, model_size, most_pairs
from lxmert_fast.train.plan_inputs import Assumptions, Cluster, Run
from lxmert_fast.train.plan_page import main, tables
from lxmert_fast.train.settings import OptimisationSettings, PretrainSettings, load_settings
from lxmert_fast.train.wire import bytes_sent

PAGE = Path(__file__).resolve().parents[2] / "train" / "README.md"
CONFIG = PAGE.with_name("configs") / "pretrain.yaml"
#: `shared/reference.md`, section 1.1.
PAPER = 228_051_752
ASSUMED = Assumptions()


@functools.cache
def paper() -> ModelSize:
    return model_size(LxmertConfig())


def planned(cluster: Cluster | None = None, **changes: object) -> Estimate:
    run = replace(Run(LxmertConfig()), **changes)  # type: ignore[arg-type]
    return estimate(run, cluster or Cluster(), ASSUMED, paper())


def test_parameters_are_the_model_s() -> None:
    assert paper().parameters == PAPER
    config = LxmertConfig(hidden_size=24, num_attention_heads=2, vocab_size=90, l_layers=1, x_layers=2)
    model = LxmertForPreTraining(config)
    assert model_size(config).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("stage", "sent"), [(0, 2.0), (1, 3.0), (2, 5.0), (3, 4.0)])
def test_nccl_over_four_ranks_and_two_passes(stage: int, sent: float) -> None:
    """In units of what one ring sends of all weights: two all-reduces are four of them."""
    found = bytes_sent(1000, Partition(stage, 4, 2), accumulation=2)
    assert found.sent == pytest.approx(sent * 2 * 1000 * 3 / 4)


def test_one_rank_sends_nothing() -> None:
    assert bytes_sent(1000, Partition(2, 1, 2)) == (0, 0, 0)


def test_seconds_by_hand() -> None:
    """Two nodes of 4 GPUs, 256 pairs: 32 a rank in two passes of 16, all-reduced once."""
    cluster = Cluster(nodes=2, gpus=4, peak=300e12, bandwidth=2e12, network=100)
    found = planned(cluster, stage=0, micro=16)
    assert (found.stage, found.micro, found.accumulation) == (0, 16, 2)
    forward = forward_flops(LxmertConfig(), *found.run.pair.batch(32))
    assert found.flops == 3 * forward
    assert found.compute == pytest.approx(3 * forward / (0.33 * 300e12) + 2 * 5e-3)
    # gradients of autocast are fp32
    sent = 2 * 4 * PAPER * 7 / 8
    assert found.communication == pytest.approx(sent / (100e9 / 8 * 0.8) + 2 * 3 * 10e-6)
    assert found.update == pytest.approx(120 * PAPER / 2e12)
    best, worst = found.seconds
    assert best == found.communication + found.update
    assert worst == pytest.approx(found.compute + found.communication + found.update)
    updates = 20 * (9_180_000 // 256)
    assert found.days == pytest.approx((updates * best / 86400, updates * worst / 86400))
    # 36 regions of 2,048 halves, four fp32 corners, two labels and two confidences
    assert found.bytes_per_second == pytest.approx(256 / best * 36 * (4096 + 16 + 16))


def test_within_a_node_only_its_own_links_count() -> None:
    found = planned(Cluster(nodes=1, gpus=8, network=0.001), stage=0)
    assert found.communication == pytest.approx(2 * 4 * PAPER * 7 / 8 / 100e9 + 2 * 3 * 10e-6)


def test_checkpointing_computes_forward_again_and_keeps_less() -> None:
    plain, twice = planned(stage=0), planned(stage=0, checkpointing=True)
    assert twice.compute - ASSUMED.overhead == pytest.approx(4 / 3 * (plain.compute - ASSUMED.overhead))
    assert twice.activations.kept < plain.activations.kept / 3
    assert twice.flops == plain.flops


def test_the_fastest_that_fits() -> None:
    """Stage 0 sends less than 1 in fp32, more in bf16; too small a GPU for all states takes what spreads."""
    assert planned(Cluster(nodes=4), precision="fp32").stage == 0
    assert planned(Cluster(nodes=4)).stage == 1
    assert planned(Cluster(nodes=1)).stage == 1
    small = Cluster(nodes=1, gpus=8, memory=5e9)
    found = planned(small)
    assert found.fits
    assert found.stage > 0
    assert not planned(small, stage=0).fits
    assert not planned(Cluster(memory=1e9)).fits


def test_most_pairs_fit_and_twice_as_many_do_not() -> None:
    run, cluster = Run(LxmertConfig(), stage=0), Cluster(memory=24e9)
    most = most_pairs(run, cluster, ASSUMED, paper())
    for micro, fits in ((most, True), (2 * most, False)):
        tried = replace(run, batch=8 * micro, micro=micro)
        assert estimate(tried, cluster, ASSUMED, paper()).fits is fits
    assert most_pairs(run, Cluster(memory=1e9), ASSUMED, paper()) == 0


def test_autocast_keeps_fp32_weights_and_copies_of_them() -> None:
    """bf16 at stage 0, where training has autocast; fp32 masters of bf16 weights come with stage 1."""
    half, whole, cut = planned(stage=0), planned(stage=0, precision="fp32"), planned(stage=1)
    assert half.memory == whole.memory._replace(gathered=2 * PAPER)
    assert half.wire == whole.wire
    assert sum(half.activations) < sum(whole.activations)
    assert (cut.memory.weights, cut.memory.masters, cut.memory.gathered) == (2 * PAPER, 4 * PAPER / 8, 0)
    assert planned(precision="fp16").stage > 0


def test_copies_of_autocast() -> None:
    """What autograd keeps of a real step: bf16 copies of every matrix, which products read transposed."""
    config = LxmertConfig(
        vocab_size=3000, hidden_size=128, num_attention_heads=2, intermediate_size=512, l_layers=1,
        r_layers=1, x_layers=2, visual_feat_dim=72, num_object_labels=13, num_attr_labels=7, num_qa_labels=29,
    )  # fmt: skip
    model, size = LxmertForPreTraining(config).train(), model_size(config)
    model.loss_only = True
    batch = batches(workload("captions").sized(2), config, labels=True).ours
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.dtype is torch.bfloat16 and x.dim() == 2 and not x.is_contiguous():
            kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    copies = sum(x.nbytes for x in kept.values())
    # biases and the embeddings of positions have none
    assert copies == pytest.approx(rank_memory(size, Partition(0, 2, 4, autocast=True)).gathered, rel=0.05)


def test_an_update_is_cut_as_training_cuts_it() -> None:
    """48 pairs of a rank in passes of at most 32: two of 24."""
    found = planned(batch=8 * 48, micro=32)
    assert (found.accumulation, found.micro) == cut(
        OptimisationSettings(batch_size=384, micro_batch_size=32), 8
    )
    assert (found.accumulation, found.micro) == (2, 24)


def test_buckets_are_those_that_training_sets() -> None:
    zero = deepspeed_config(OptimisationSettings(), 1, 1, torch.device("cpu"))["zero_optimization"]
    bucket = Run(LxmertConfig()).bucket
    assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (bucket, bucket)


def test_offload_moves_the_states_to_the_host() -> None:
    plain, moved = planned(stage=2), planned(stage=2, offload_optimizer=True)
    assert (moved.memory.masters, moved.memory.states) == (0, 0)
    assert moved.memory.host > plain.memory.masters + plain.memory.states
    assert moved.communication > plain.communication
    assert moved.update == pytest.approx(120 * PAPER / 8 / 20e9)
    assert planned(offload_optimizer=True).stage > 0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch": 100}, "batch 100, wanted a multiple of the 8 ranks"),
        ({"precision": "fp8"}, "precision 'fp8', wanted one of fp32, bf16, fp16"),
        ({"optimizer": "sgd"}, "optimizer 'sgd', wanted one of"),
        ({"stage": 4}, "ZeRO stage 4, wanted 0, 1, 2 or 3"),
        ({"stage": 0, "precision": "fp16"}, "'fp16' at ZeRO stage 0, wanted stage 1, 2 or 3; bf16"),
        ({"stage": 0, "offload_optimizer": True}, "wanted stage 1, 2 or 3"),
        ({"stage": 2, "offload_parameters": True}, "wanted together with ZeRO stage 3"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        planned(**changes)


def test_curves_end_where_a_gpu_has_no_pair_and_fall_with_the_network() -> None:
    found = points(Run(LxmertConfig(), batch=64), Cluster(nodes=8, gpus=8), ASSUMED, networks=(25, 400))
    strong = [point.gpus for point in found if (point.kind, point.network) == ("strong", 25)]
    assert strong == [1, 2, 4, 8, 16, 32, 64]
    weak = {point.network: point for point in found if (point.kind, point.gpus) == ("weak", 1024)}
    assert weak[25].batch == 1024
    assert weak[25].efficiency < weak[400].efficiency
    for point in found:
        assert point.efficiency[1] <= 1 + 1e-9
        if point.gpus == 1:
            assert point.efficiency == (1, 1)


def test_the_command_says_what_it_assumes(tmp_path: Path) -> None:
    plot = tmp_path / "curves.png"
    done = CliRunner().invoke(app, ["plan", str(CONFIG), "--nodes", "2", "--curves", str(plot)])
    assert done.exit_code == 0, done.output
    assert "ESTIMATE, not a measurement: 228,051,752 parameters" in done.output
    assert "Assumed, not measured: utilisation 0.33" in done.output
    assert "optimisation.zero.stage=0 optimisation.micro_batch_size=16" in done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "model, not measured" in plot.with_suffix(".md").read_text()


def planned_by(*words: str) -> dict:
    done = CliRunner().invoke(app, ["plan", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_reads_how_the_file_trains() -> None:
    how = load_settings(PretrainSettings, "pretrain_large_batch").optimisation
    found = planned_by("pretrain_large_batch", "--nodes", "1", "--gpus", "2")
    assert (found["stage"], found["run"]["precision"], found["run"]["optimizer"]) == (2, "bf16", "lamb")
    assert (found["accumulation"], found["micro_batch_size"]) == cut(how, 2) == (4, 512)
    # a file that names no stage leaves it to the plan
    assert planned_by("pretrain", "--nodes", "4")["stage"] == 0


def test_options_win_over_the_files() -> None:
    found = planned_by("--with", "zero3_offload")
    assert (found["stage"], found["run"]["batch"], found["run"]["precision"]) == (3, 256, "fp32")
    assert found["run"]["offload_optimizer"] is found["run"]["offload_parameters"] is True
    assert found["memory"]["host"] > 0
    words = ["--with", "zero3_offload", "--no-offload", "--micro", "8", "--precision", "bf16"]
    run = planned_by(*words)["run"]
    assert (run["stage"], run["micro"], run["precision"]) == (3, 8, "bf16")
    assert run["offload_optimizer"] is run["offload_parameters"] is False
    run = planned_by("--with", "zero3_offload", "--zero", "2")["run"]
    assert (run["stage"], run["offload_optimizer"], run["offload_parameters"]) == (2, True, False)


def test_the_command_in_json() -> None:
    arguments = [
        "--nodes",
        "4",
        "--zero",
        "1",
        "--layers",
        "2,1,1",
        "--hidden-size",
        "384",
        "--gpu",
        "v100-16",
    ]
    done = CliRunner().invoke(app, ["plan", *arguments, "--assume", "utilisation=0.5", "--json"])
    found = json.loads(done.stdout)
    assert found["estimate"] is True
    assert (found["stage"], found["cluster"]["memory"], found["cluster"]["peak"]) == (1, 16e9, 125e12)
    assert found["assumptions"]["utilisation"] == 0.5
    config = LxmertConfig(hidden_size=384, l_layers=2, r_layers=1, x_layers=1)
    assert found["parameters"] == model_size(config).parameters


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--gpu", "K80"], "--gpu K80: unknown, wanted one of B200"),
        (["--layers", "9,5"], "--layers 9,5: wanted three numbers"),
        (["--assume", "luck=1"], "--assume luck=1: wanted NAME=VALUE of utilisation, overhead"),
        (["--assume", "hop=soon"], "--assume hop=soon: 'soon' is not a number"),
        (["--assume", "utilisation=nan"], "--assume utilisation=nan: wanted a finite number above 0"),
        (["--assume", "network_share=0"], "--assume network_share=0: wanted a finite number above 0"),
        (["--assume", "hop=-1"], "--assume hop=-1: wanted a finite number of 0 or more"),
    ],
)
def test_the_command_refuses(arguments: list[str], line: str) -> None:
    done = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(done.exception, InputError)
    assert line in str(done.exception)


@pytest.mark.parametrize("name", ["memory", "micro", "recipe", "efficiency"])
def test_the_page_has_the_tables(name: str) -> None:
    hint = "run python -m lxmert_fast.train.plan_page train/README.md"
    assert parts(PAGE.read_text(encoding="utf-8"), name)[1] == page_tables()[name], hint


@functools.cache
def page_tables() -> dict[str, str]:
    return tables()


def test_tables_are_put_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lxmert_fast.train.plan_page.tables", lambda: {"memory": "new"})
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- memory -->\nold\n<!-- memory -->\nb\n")
    main([str(page)])
    assert page.read_text() == "a\n<!-- memory -->\nnew\n<!-- memory -->\nb\n"
