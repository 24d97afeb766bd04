"""Pre-training with the five tasks of section 3.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lxmert_fast.answering import describe_model, save_model_folder
from lxmert_fast.checkpoint import load_model
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import Batch, EpochBatches, make_loader
from lxmert_fast.data.examples import Examples, SelectsAnswers, labels_of
from lxmert_fast.data.examples_cache import read_examples_once
from lxmert_fast.data.pretraining import PretrainingDataset
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError
from lxmert_fast.inputs import check_fits
from lxmert_fast.losses import IGNORE
from lxmert_fast.models import LxmertForPreTraining

from .engine import Engine
from .loop import fit
from .new_model import config_for, new_model, open_regions, read_answers
from .same import digest, digest_of_regions
from .settings import PretrainingData, PretrainSettings
from .shares import Counts
from .stop import leave_signals_to_the_trainer
from .task import Task


def pretrain(settings: PretrainSettings) -> dict[str, Any]:
    """Run pre-training to the end, or on from its newest checkpoint; returns `fit`'s summary.

    Raises:
        InputError: a file that is missing or wrong.
        Diverged: a loss or gradient that is not finite.
    """
    return fit(PretrainTask(settings), settings.optimisation, settings.run)


class PretrainTask(Task):
    """Masked words, masked objects, matching and question answering, on aggregated files."""

    title = "Pre-training"

    def __init__(self, settings: PretrainSettings) -> None:
        data, seed = settings.data, settings.run.seed
        self.data = data
        self.batch_size, self.workers = settings.optimisation.batch_size, settings.run.workers
        self.text = TextEncoder(data.vocabulary, data.max_length)
        self.store = open_regions(data.regions, settings.run)
        self.answers = _answers(data)
        cache = settings.run.output / "cache"
        examples = read_examples_once(data.train, self.store, self.text, self.answers, cache)
        # Validation draws for each pair whatever training does, so that its losses can be compared.
        self.train: PretrainingDataset = self._dataset(
            examples, seed, examples, share_images=data.sentences_per_image > 1
        )
        self.valid: PretrainingDataset | None = None
        if data.valid:
            held_out = read_examples_once(data.valid, self.store, self.text, self.answers, cache)
            self.valid = self._dataset(held_out, seed, examples)
        self.model = self._model(settings)

    def _dataset(
        self, examples: Examples, seed: int, random_from: Examples, *, share_images: bool = False
    ) -> PretrainingDataset:
        data = self.data
        return PretrainingDataset(
            examples,
            self.store,
            self.text,
            seed=seed,
            word_mask_rate=data.word_mask_rate,
            object_mask_rate=data.object_mask_rate,
            label_masked_only=data.label_masked_only,
            answer_from_epoch=data.answer_from_epoch,
            random_from=random_from,
            share_images=share_images,
        )

    def _model(self, settings: PretrainSettings) -> LxmertForPreTraining:
        if settings.model.start_from is None:
            config = config_for(settings.model, self.text, self.store, len(self.answers.names))
            return new_model(settings.model, config, LxmertForPreTraining, self.text, settings.run.seed)
        source = settings.model.start_from
        model = load_model(source, LxmertForPreTraining)
        check_fits(model.config, self.text, self.store, source, object_labels=True)
        if model.config.num_qa_labels != len(self.answers.names):
            raise InputError(
                f"{source}: an answer head of {model.config.num_qa_labels} answers, the "
                f"table has {len(self.answers.names)}"
            )
        return model

    def num_examples(self) -> int:
        return len(self.train)

    def runs(self) -> Runs | None:
        limit = self.data.sentences_per_image
        return Runs(self.train.examples.images, limit) if limit > 1 else None

    def facts(self) -> dict[str, Any]:
        examples = self.train.examples
        return {
            "number of examples": self.num_examples(),
            "training file": digest(examples.images, examples.sentences.values, examples.answers.values),
            "region store": digest_of_regions(self.store),
        }

    def counts(self, batch: Batch) -> Counts:
        inputs = batch.inputs
        pairs = float(len(batch.example_ids))
        return {
            "mask_lm": float((inputs["labels"] != IGNORE).sum()),
            "matched": pairs,
            "qa": float((inputs["ans"] != IGNORE).sum()),
            **dict.fromkeys(("obj", "attr", "feat"), _objects(inputs)),
            "pairs": pairs,
            "tokens": float(inputs["attention_mask"].sum()),
            "flops": self.training_flops(batch),
        }

    def divisors(self, batch: Batch, counts: Counts) -> Counts:
        inputs = batch.inputs
        with_padding = float(len(inputs["input_ids"]) * inputs["visual_feats"].shape[1])
        return counts | dict.fromkeys(("obj", "attr", "feat"), with_padding)

    def forward_options(self, epoch: int, share: Counts) -> dict[str, Any]:
        return {"loss_weights": share | {"qa": share["qa"] * self.data.answer_weight}, "loss_only": True}

    def weighed(self, output: Any, share: Counts) -> Tensor:
        return output.loss  # by `loss_weights`

    def late_parameters(self) -> dict[str, int]:
        return {"answer_head.": self.data.answer_from_epoch}

    def losses(self, output: Any) -> dict[str, Tensor]:
        return output.losses

    @torch.no_grad()
    def validate(self, epoch: int, engine: Engine) -> dict[str, Any]:
        """Mean losses over the validation examples, and answer accuracy on the matched pairs.

        Words, objects and sentences are hidden and replaced as in training, as the original does, but with
        the same draws at every epoch, so that epochs can be compared.
        """
        if self.valid is None:
            return {}
        self.model.eval()
        ranks = engine.ranks
        batches = EpochBatches(
            len(self.valid),
            max(min(self.batch_size, len(self.valid)), ranks.size),
            seed=0,
            shuffle=False,
            drop_last=False,
            rank=ranks.rank,
            num_ranks=ranks.size,
        )
        # epoch 0 of the draws, except for the schedule of the answers
        self.valid.answer_from_epoch = 0 if epoch >= self.data.answer_from_epoch else 1
        sums: dict[str, float] = {"right": 0.0, "answered": 0.0}
        loader = make_loader(
            self.valid, batches, num_workers=self.workers, start_worker=leave_signals_to_the_trainer
        )
        for batch in loader:
            output = engine(**batch.inputs, loss_only=False)
            counts = self.counts(batch)
            divisors = self.divisors(batch, counts)
            for name, value in output.losses.items():
                sums[f"loss/{name}"] = sums.get(f"loss/{name}", 0.0) + float(value) * divisors[name]
                sums[f"count/{name}"] = sums.get(f"count/{name}", 0.0) + counts[name]
            row, answer, score = batch.extras["answers"]
            best = output.question_answering_score.argmax(-1).cpu()
            sums["right"] += float(score[answer == best[row]].sum())
            sums["answered"] += len(row.unique())
        names = sorted(sums)
        sums = dict(zip(names, ranks.total([sums[name] for name in names]), strict=True))
        losses = {
            name: sums[f"loss/{name}"] / max(sums[f"count/{name}"], 1.0)
            for name in (key.removeprefix("loss/") for key in names if key.startswith("loss/"))
        }
        weights = {"qa": self.data.answer_weight}
        total = sum(weights.get(name, 1.0) * value for name, value in losses.items())
        metrics: dict[str, Any] = {"losses": {"total": total, **losses}}
        if sums["answered"]:
            metrics["matched_answer_accuracy"] = sums["right"] / sums["answered"]
        return metrics

    def better(self, metrics: dict[str, Any], best: dict[str, Any]) -> bool:
        return metrics["losses"]["total"] < best["losses"]["total"]

    def description(self) -> dict[str, Any]:
        return describe_model(self.model, self.text, self.answers.names)

    def save_model(self, folder: Path, weights: dict[str, Tensor]) -> None:
        save_model_folder(self.model, self.text, self.answers.names, folder, weights)


def _objects(inputs: dict[str, Any]) -> float:
    """Objects of all pairs, without padding."""
    per_image = inputs.get("visual_attention_mask")
    if per_image is None:
        return float(len(inputs["input_ids"]) * inputs["visual_feats"].shape[1])
    counts = per_image.sum(1)
    which = inputs.get("image_index")
    return float(counts.sum() if which is None else counts[which].sum())


def _answers(data: PretrainingData) -> SelectsAnswers:
    """The joint table, a plain list of answers, or the labels of the training files."""
    if data.answers is None:
        return AnswerMap.from_labels(labels_of(data.train), source=", ".join(map(str, data.train)))
    return read_answers(data.answers)
