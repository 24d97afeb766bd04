"""A transformers LXMERT fine-tuned by Hugging Face's `Trainer`, with one line more.

    python -m lxmert_fast.train.examples.swap_in_trainer MODEL_FOLDER DATA_FOLDER OUTPUT

The folders are those of `swap_in_loop.py`. `Trainer` draws question numbers and the collator makes a batch of
them in which each image stands once. OUTPUT holds a folder that stock transformers reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import typer
from torch.utils.data import Dataset
from transformers import LxmertForQuestionAnswering, Trainer, TrainingArguments

from lxmert_fast import RegionStore, TextEncoder, accelerate
from lxmert_fast.data.batches import BatchKey
from lxmert_fast.data.vqa import VqaDataset, VqaFolder


class Rows(Dataset):
    """Question numbers; the collator reads what is behind them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> int:
        return row


def main(model_folder: Path, data_folder: Path, output: Path, steps: int = 20, batch_size: int = 32) -> None:
    """Fine-tune for a few steps and save."""
    model = LxmertForQuestionAnswering.from_pretrained(model_folder)
    accelerate(model)

    folder = VqaFolder(data_folder)
    with RegionStore(folder.regions) as store:
        data = VqaDataset(folder.train, store, TextEncoder(folder.vocabulary), folder.answers())

        def collate(rows: list[int]) -> dict[str, Any]:
            return data[BatchKey(0, 0, np.array(rows))].inputs

        arguments = TrainingArguments(
            output_dir=str(output),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=5e-5,
            logging_steps=1,
            save_strategy="no",
            remove_unused_columns=False,  # the collator knows what the model takes
            report_to=[],
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Rows(len(data)), data_collator=collate)
        trainer.train()
        trainer.save_model(str(output))


if __name__ == "__main__":
    typer.run(main)
