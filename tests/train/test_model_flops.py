"""Model FLOPs in the log: of a real pre-training batch, by the clock, and as a share of a known peak."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import write_data

from lxmert_fast.bench.flops import flop_counter
from lxmert_fast.data.batches import BatchKey
from lxmert_fast.train.metrics import read_metrics
from lxmert_fast.train.pretraining import PretrainTask, pretrain
from lxmert_fast.train.settings import PretrainSettings, check_settings
from lxmert_fast.train.window import Window, known_peak

H100 = 989e12


def settings(folder: Path, per_image: int, hidden: int) -> PretrainSettings:
    base = write_data(folder)
    sizes = {"hidden_size": hidden, "num_attention_heads": 2, "intermediate_size": 4 * hidden}
    tree = {
        "data": base["data"] | {"sentences_per_image": per_image, "valid": []},
        "model": base["model"] | sizes,
        "optimisation": {"batch_size": 16, "epochs": 1},
        "run": {"output": str(folder / "run"), "workers": 0, "log_every": 2, "device": "cpu"},
    }
    return check_settings(PretrainSettings, tree, "test")


@pytest.mark.parametrize("per_image", [1, 2])
def test_a_batch_of_pre_training(tmp_path: Path, per_image: int) -> None:
    """Against PyTorch's count of products, without attention, where a CPU computes padding too.

    Attention over k keys is k / 6 H of a layer's products: 0.8 % of 9 words.
    """
    task = PretrainTask(settings(tmp_path, per_image, hidden=192))
    batch = task.train[BatchKey(0, 0, np.arange(16), 0 if per_image > 1 else None)]
    counter = flop_counter()
    with counter, torch.no_grad():
        task.model.train()(**batch.inputs, loss_only=True)
    counts = counter.get_flop_counts()["Global"]
    products = sum(number for name, number in counts.items() if "attention" not in str(name))
    assert task.counts(batch)["flops"] == pytest.approx(3 * products, rel=0.01)


def test_the_log_has_them_and_no_share_of_an_unknown_peak(tmp_path: Path) -> None:
    pretrain(settings(tmp_path, 1, hidden=32))
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert lines
    for line in lines:
        assert line["model_tflops_per_second"] > 0
        assert "mfu" not in line


def test_rates_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates in four seconds, on two devices of a peak of 1e13 together."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    window = Window(peak=1e13)
    for _ in range(2):
        window.add({"pairs": 8.0, "tokens": 80.0, "flops": 6e12}, waited=0.5)
    now[0] += 4.0
    assert window.rates() == {
        "pairs_per_second": 4.0,
        "tokens_per_second": 40.0,
        "model_tflops_per_second": 3.0,
        "data_wait_share": 0.25,
        "mfu": 0.3,
    }
    window.reset()
    now[0] += 1.0
    assert window.rates()["model_tflops_per_second"] == 0.0


@pytest.mark.parametrize(
    ("device", "name", "precision", "peak"),
    [
        ("cuda", "NVIDIA H100 80GB HBM3", "bf16", 4 * H100),
        ("cuda", "NVIDIA H100 80GB HBM3", "fp16", 4 * H100),
        ("cuda", "NVIDIA H100 80GB HBM3", "fp32", None),
        ("cuda", "Quadro K620", "bf16", None),
        ("cpu", "NVIDIA H100 80GB HBM3", "bf16", None),
    ],
)
def test_the_peak_is_known_of_some_devices_in_half_precision(
    device: str, name: str, precision: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda asked: name)
    assert known_peak(torch.device(device), precision, 4) == peak
