"""Fine-tuning on questions with a list of answers (section 4; reference 4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.answering import LABEL2ANS, describe_model, save_model_folder
from lxmert_fast.checkpoint import load_answer_rows, load_into, load_model
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import Batch
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import VqaDataset, VqaFolder, read_questions
from lxmert_fast.errors import InputError
from lxmert_fast.inputs import check_fits
from lxmert_fast.losses import IGNORE
from lxmert_fast.models import LxmertForQuestionAnswering

from .engine import Engine
from .evaluate import Answers, answer_questions, score_answers
from .loop import fit
from .new_model import config_for, new_model, open_regions, read_answers
from .same import digest, digest_of_regions
from .settings import FinetuneSettings, VqaData
from .shares import Counts
from .task import Task


def finetune(settings: FinetuneSettings, **options: Any) -> dict[str, Any]:
    """Run fine-tuning to the end, or on from its newest checkpoint; returns `fit`'s summary.

    `options` are `fit`'s.

    Raises:
        InputError: a file that is missing or wrong.
        Diverged: a loss or gradient that is not finite.
    """
    from .daquar import DaquarTask

    kind = DaquarTask if settings.task == "daquar" else AnswerTask
    return fit(kind(settings), settings.optimisation, settings.run, **options)


@dataclass(frozen=True)
class VqaFiles:
    """The files of a question-answering data set, named or found in its folder."""

    train: Path
    valid: Path | None
    regions: list[Path]
    vocabulary: Path
    answers: AnswerMap

    @classmethod
    def of(cls, data: VqaData) -> VqaFiles:
        """Names win over the folder."""
        folder = VqaFolder(data.folder) if data.folder else None
        train = data.train or (folder.train if folder else Path())
        if data.answers is not None:
            answers = AnswerMap.from_files(None, data.answers)
        elif folder is not None and data.train is None:
            answers = folder.answers()
        else:
            labels = [question.label or {} for question in read_questions(train)]
            answers = AnswerMap.from_labels(labels, source=train)
        return cls(
            train,
            data.valid or (folder.valid if folder else None),
            list(data.regions) or ([folder.regions] if folder else []),
            data.vocabulary or (folder.vocabulary if folder else Path()),
            answers,
        )


class AnswerTask(Task):
    """Soft answer scores by binary cross entropy, the original's loss."""

    title = "Fine-tuning"

    def __init__(self, settings: FinetuneSettings) -> None:
        data = settings.data
        files = VqaFiles.of(data)
        self.text = TextEncoder(files.vocabulary, data.max_length)
        self.store = open_regions(files.regions, settings.run)
        self.answers = files.answers
        self.workers = settings.run.workers
        self.questions_per_image = data.questions_per_image

        def dataset(path: Path, best_answer: bool = False) -> VqaDataset:
            return VqaDataset(
                path,
                self.store,
                self.text,
                self.answers,
                unknown_answers=data.unknown_answers,
                blind=data.blind,
                best_answer=best_answer,
            )

        self.train: VqaDataset = dataset(files.train, data.best_answer)
        if not self.train.labelled:
            raise InputError(f"{files.train}: its questions have no labels, nothing can be learnt from them")
        self.valid = dataset(files.valid) if files.valid else None
        self.model = self._model(settings)

    def _model(self, settings: FinetuneSettings) -> LxmertForQuestionAnswering:
        source = settings.model.start_from
        if source is None:
            config = config_for(settings.model, self.text, self.store, len(self.answers))
            return new_model(settings.model, config, LxmertForQuestionAnswering, self.text, settings.run.seed)
        pretrained = load_model(source)
        check_fits(pretrained.config, self.text, self.store, source)
        sizes = pretrained.config.to_dict() | {"num_qa_labels": len(self.answers)}
        config = LxmertConfig(**sizes)
        model = new_model(settings.model, config, LxmertForQuestionAnswering, self.text, settings.run.seed)
        state = pretrained.state_dict()
        table = settings.model.start_answers or source / LABEL2ANS
        if table.is_file() or settings.model.start_answers:
            load_answer_rows(model, state, read_answers(table).names, self.answers.names, source)
        else:
            backbone = {name: value for name, value in state.items() if name.startswith("lxmert.")}
            load_into(model, backbone, allow_partial=True, source=source)
        return model

    def num_examples(self) -> int:
        return len(self.train)

    def runs(self) -> Runs | None:
        limit = self.questions_per_image
        return Runs(self.train.images, limit) if limit > 1 else None

    def facts(self) -> dict[str, Any]:
        return {
            "number of examples": self.num_examples(),
            "training file": digest([str(name) for name in self.train.question_ids], self.train.images),
            "list of answers": digest(self.answers.names),
            "region store": digest_of_regions(self.store),
        }

    def counts(self, batch: Batch) -> Counts:
        counts = super().counts(batch)
        if self.train.best_answer:
            counts["loss"] = float((batch.inputs["labels"] != IGNORE).sum())
        return counts | {
            "tokens": float(batch.inputs["attention_mask"].sum()),
            "flops": self.training_flops(batch),
        }

    def losses(self, output: Any) -> dict[str, Tensor]:
        return {}

    def validate(self, epoch: int, engine: Engine) -> dict[str, Any]:
        """Mean soft score of the answers, overall and by answer type."""
        if self.valid is None or not self.valid.labelled:
            return {}
        return self.metrics(
            answer_questions(self.model, self.valid, workers=self.workers, ranks=engine.ranks)
        )

    def metrics(self, answers: Answers) -> dict[str, Any]:
        """What `validate` returns of the answers to the validation questions."""
        scores = score_answers(answers)
        kinds = {name: score for name, (score, _) in scores.by_answer_type.items()}
        return {"accuracy": scores.overall, "by_answer_type": kinds}

    def better(self, metrics: dict[str, Any], best: dict[str, Any]) -> bool:
        return metrics["accuracy"] > best["accuracy"]

    def description(self) -> dict[str, Any]:
        return describe_model(self.model, self.text, self.answers.names)

    def save_model(self, folder: Path, weights: dict[str, Tensor]) -> None:
        save_model_folder(self.model, self.text, self.answers.names, folder, weights)
