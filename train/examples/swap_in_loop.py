"""A transformers LXMERT fine-tuned in a plain PyTorch loop, with one line more.

    python -m lxmert_fast.train.examples.swap_in_loop MODEL_FOLDER DATA_FOLDER

MODEL_FOLDER is a Hugging Face folder of `LxmertForQuestionAnswering` whose answer head fits the data,
DATA_FOLDER a data set as `make demo DATA=...` takes it (train.json, regions.h5, vocab.txt). Batches name the
image of each question once, with `image_index`: the model looks at it once.
"""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from transformers import LxmertForQuestionAnswering

from lxmert_fast import RegionStore, TextEncoder, accelerate
from lxmert_fast.data.batches import EpochBatches, make_loader
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.vqa import VqaDataset, VqaFolder


def main(model_folder: Path, data_folder: Path, steps: int = 20, batch_size: int = 32) -> None:
    """Fine-tune for a few steps and print the loss."""
    model = LxmertForQuestionAnswering.from_pretrained(model_folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    handle = accelerate(model)

    folder = VqaFolder(data_folder)
    with RegionStore(folder.regions) as store:
        data = VqaDataset(folder.train, store, TextEncoder(folder.vocabulary), folder.answers())
        batches = EpochBatches(len(data), batch_size, seed=0, runs=Runs(data.images))
        model.train()
        for step, batch in zip(range(steps), make_loader(data, batches), strict=False):
            loss = model(**batch.inputs).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step + 1}  loss {loss.item():.4f}")

    handle.revert()  # a stock model again, with the new weights


if __name__ == "__main__":
    typer.run(main)
