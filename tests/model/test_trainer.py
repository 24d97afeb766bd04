"""Hugging Face's `Trainer` fine-tunes a swapped-in model and one of this library's as it does a stock one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import both, make_config
from torch import Tensor
from torch.utils.data import Dataset
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast import accelerate
from lxmert_fast.models import LxmertForQuestionAnswering

STEPS = 50


class Questions(Dataset):
    """Questions of 3 to 9 words whose answer is how many of a mark word they have, on few images."""

    def __init__(self, num_answers: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(5, 90, (200, 9), generator=generator)
        self.mask = torch.arange(9) < torch.randint(3, 10, (200, 1), generator=generator)
        self.answers = ((self.ids < 20) & self.mask).sum(1) % num_answers
        self.features = torch.rand(10, 6, 20, generator=generator)
        self.boxes = torch.rand(10, 6, 4, generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {
            "input_ids": self.ids[row],
            "attention_mask": self.mask[row].long(),
            "visual_feats": self.features[row % 10],
            "visual_pos": self.boxes[row % 10],
            "labels": self.answers[row],
        }


def curve(model: Any, folder: Path, accumulation: int = 1) -> list[float]:
    """Fine-tune for 50 updates without dropout, so that nothing is drawn but the order of the examples."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="Trainer needs accelerate (extra `test`)")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=3,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=Questions(model.config.num_qa_labels)
    )
    trainer.train()
    trainer.save_model(str(folder / "model"))
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_swapped_in_model_trains_along_the_stock_curve(tmp_path: Path, accumulation: int):
    _, stock = both(LxmertForQuestionAnswering)
    _, swapped = both(LxmertForQuestionAnswering)
    wanted = curve(stock, tmp_path / "stock", accumulation)
    accelerate(swapped)
    found = curve(swapped, tmp_path / "swapped", accumulation)
    assert len(found) == STEPS
    assert wanted[-1] < wanted[0]
    # 1e-4 of the loss: 50 updates of AdamW on fp32 roundings
    assert found == pytest.approx(wanted, rel=1e-4)
    reloaded = huggingface.LxmertForQuestionAnswering.from_pretrained(tmp_path / "swapped" / "model")
    assert type(reloaded) is huggingface.LxmertForQuestionAnswering
    for name, p in swapped.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], p), name


@pytest.mark.slow
def test_this_library_s_model_trains_along_the_stock_curve(tmp_path: Path):
    ours, stock = both(LxmertForQuestionAnswering)
    wanted = curve(stock, tmp_path / "stock")
    assert curve(ours, tmp_path / "ours") == pytest.approx(wanted, rel=1e-4)
    reloaded = huggingface.LxmertForQuestionAnswering.from_pretrained(tmp_path / "ours" / "model")
    batch = Questions(make_config().num_qa_labels)[0]
    batch = {name: x[None] for name, x in batch.items()}
    with torch.no_grad():
        found, kept = reloaded.eval()(**batch), ours.eval()(**batch)
    torch.testing.assert_close(found.question_answering_score, kept.question_answering_score)
