"""FLOPs by sizes against PyTorch's counter on the model itself."""

from __future__ import annotations

import pytest
import torch

from lxmert_fast.batch_sizes import batch_sizes
from lxmert_fast.bench.flops import flop_counter
from lxmert_fast.bench.workloads import batches, workload
from lxmert_fast.flops import device_peak, forward_flops
from lxmert_fast.models import (
    LxmertConfig,
    LxmertForImagePairs,
    LxmertForPreTraining,
    LxmertForQuestionAnswering,
)

#: Attention over texts of unequal lengths, and over the padding that PyTorch's counter sees on a CPU.
TOLERANCE = 0.01


def config_of(**changes: int) -> LxmertConfig:
    """Wide for its attention, as the paper's is, so that what is counted is mostly products."""
    sizes = {
        "vocab_size": 500,
        "hidden_size": 192,
        "num_attention_heads": 2,
        "intermediate_size": 768,
        "l_layers": 2,
        "r_layers": 1,
        "x_layers": 3,
        "visual_feat_dim": 64,
        "num_object_labels": 40,
        "num_attr_labels": 30,
        "num_qa_labels": 29,
    }
    return LxmertConfig(**(sizes | changes))


def counted(model: torch.nn.Module, batch: dict) -> int:
    counter = flop_counter()
    with counter, torch.no_grad():
        model(**batch)
    return counter.get_total_flops()


@pytest.mark.parametrize("per_image", [1, 4])
@pytest.mark.parametrize("layers", [1, 3])
def test_pretraining(per_image: int, layers: int) -> None:
    config = config_of(x_layers=layers)
    batch = batches(workload("captions").sized(16, per_image), config, labels=True).ours
    model = LxmertForPreTraining(config)
    model.loss_only = True
    assert forward_flops(config, *batch_sizes(batch)) == pytest.approx(counted(model, batch), rel=TOLERANCE)


def test_questions_with_shared_texts_and_images() -> None:
    config = config_of()
    batch = batches(workload("vqa").sized(16, 4), config, labels=True).ours
    batch["text_index"] = torch.arange(16) % 8
    for name in ("input_ids", "attention_mask"):
        batch[name] = batch[name][:8]
    batch["attention_mask"][:] = 1
    found = forward_flops(config, *batch_sizes(batch))
    # nothing is padded and all are equally long, so the count is exact
    assert found == counted(LxmertForQuestionAnswering(config), batch)


def test_sentences_about_two_images() -> None:
    """As pairs with a head of two answers; the head has it once a sentence, which is 8 H a sentence less."""
    config = config_of(num_qa_labels=2)
    texts, pairs = torch.randint(5, 500, (3, 8)), 4
    batch = {
        "input_ids": texts,
        "attention_mask": torch.ones_like(texts),
        "text_index": torch.tensor([0, 0, 1, 2]),
        "visual_feats": torch.randn(6, 5, 64),
        "visual_pos": torch.rand(6, 5, 4),
        "image_index": torch.tensor([[0, 1], [2, 3], [0, 1], [4, 5]]),
    }
    found = forward_flops(config, *batch_sizes(batch))
    assert found - 8 * pairs * config.hidden_size == counted(LxmertForImagePairs(config), batch)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("A100-80", 312e12),
        ("NVIDIA A10", 125e12),
        ("Tesla V100-SXM2-32GB", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Quadro K620", None),
    ],
)
def test_a_device_by_the_name_that_its_driver_gives(name: str, peak: float | None) -> None:
    assert device_peak(name) == peak
