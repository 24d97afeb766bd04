"""NLVR2: is a sentence true of two images? (section 4; reference 4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.answering import describe_model, save_model_folder
from lxmert_fast.checkpoint import load_model
from lxmert_fast.data.batches import Batch
from lxmert_fast.data.nlvr2 import Nlvr2Dataset
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError
from lxmert_fast.inputs import check_fits
from lxmert_fast.metrics.nlvr import score
from lxmert_fast.models import LxmertForImagePairs

from .engine import Engine
from .evaluate_pairs import judge_pairs
from .new_model import config_for, load_backbone, new_model, open_regions
from .same import digest, digest_of_regions
from .settings import IMAGES_PER_FILE, FinetuneSettings, Nlvr2Data
from .shares import Counts
from .task import Task


class PairTask(Task):
    """True or false by cross entropy over two classes, the original's loss."""

    title = "Fine-tuning"

    def __init__(self, settings: FinetuneSettings) -> None:
        data = settings.data
        assert isinstance(data, Nlvr2Data)
        if settings.model.start_answers is not None:
            raise InputError("model.start_answers: NLVR2 has no answers, wanted nothing")
        self.data = data
        self.text = TextEncoder(data.vocabulary, data.max_length)
        self.store = open_regions(data.regions, settings.run)
        self.workers = settings.run.workers
        self.notes: list[str] = []
        self.train: Nlvr2Dataset = self._dataset(data.train, "training")
        if not self.train.labelled:
            names = ", ".join(map(str, data.train))
            raise InputError(f"{names}: its sentences have no labels, nothing can be learnt from them")
        self.valid = self._dataset(data.valid, "validation") if data.valid else None
        self.model = self._model(settings)

    def _dataset(self, paths: list[Path], use: str) -> Nlvr2Dataset:
        made = Nlvr2Dataset(paths, self.store, self.text, images_per_file=IMAGES_PER_FILE[self.data.subset])
        self.notes.append(
            f"{use}: {len(made):,} examples of {', '.join(map(str, paths))}, "
            f"{made.left_out:,} left out by data.subset={self.data.subset}"
        )
        return made

    def _model(self, settings: FinetuneSettings) -> LxmertForImagePairs:
        source, seed = settings.model.start_from, settings.run.seed
        if source is None:
            config = config_for(settings.model, self.text, self.store, num_answers=2)
            return new_model(settings.model, config, LxmertForImagePairs, self.text, seed)
        pretrained = load_model(source)
        check_fits(pretrained.config, self.text, self.store, source)
        config = LxmertConfig(**pretrained.config.to_dict() | {"num_qa_labels": 2})
        model = new_model(settings.model, config, LxmertForImagePairs, self.text, seed)
        load_backbone(model, pretrained.state_dict(), source)
        return model

    def num_examples(self) -> int:
        return len(self.train)

    def runs(self) -> Runs | None:
        limit = self.data.pairs_per_sentence
        return Runs(self.train.texts, limit) if limit > 1 else None

    def facts(self) -> dict[str, Any]:
        return {
            "number of examples": self.num_examples(),
            "training file": digest(self.train.identifiers, self.train.images, self.train.sentences.values),
            "region store": digest_of_regions(self.store),
        }

    def counts(self, batch: Batch) -> Counts:
        return super().counts(batch) | {
            "tokens": float(batch.inputs["attention_mask"].sum()),
            "flops": self.training_flops(batch),
        }

    def losses(self, output: Any) -> dict[str, Tensor]:
        return {}

    def validate(self, epoch: int, engine: Engine) -> dict[str, Any]:
        """Accuracy and consistency, as the official script has them."""
        if self.valid is None or self.valid.labels is None:
            return {}
        true = judge_pairs(self.model, self.valid, workers=self.workers, ranks=engine.ranks)
        scores = score(self.valid.groups, true == self.valid.labels)
        return {"accuracy": scores.accuracy, "consistency": scores.consistency}

    def better(self, metrics: dict[str, Any], best: dict[str, Any]) -> bool:
        return metrics["accuracy"] > best["accuracy"]

    def description(self) -> dict[str, Any]:
        return describe_model(self.model, self.text, [])

    def save_model(self, folder: Path, weights: dict[str, Tensor]) -> None:
        save_model_folder(self.model, self.text, [], folder, weights)
