"""Fine-tuning, and its task on questions with a list of answers (section 4; reference 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LxmertConfig

from lxmert_fast.answering import LABEL2ANS, describe_model, save_model_folder
from lxmert_fast.checkpoint import load_answer_rows, load_model
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import Batch
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.data.vqa import VqaDataset, VqaFolder, iter_questions
from lxmert_fast.errors import InputError
from lxmert_fast.inputs import check_fits
from lxmert_fast.models import LxmertForQuestionAnswering

from .engine import Engine
from .evaluate import Answers, answer_questions, score_answers
from .image_pairs import PairTask
from .loop import fit
from .new_model import config_for, load_backbone, new_model, open_regions, read_answers
from .same import digest, digest_of_regions
from .settings import IMAGES_PER_FILE, FinetuneSettings, VqaData
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

    special: dict[str, Callable[[FinetuneSettings], Task]] = {"nlvr2": PairTask, "daquar": DaquarTask}
    task = special.get(settings.task, AnswerTask)(settings)
    recorded = {"settings": settings.model_dump(mode="json")}
    return fit(task, settings.optimisation, settings.run, **recorded | options)


@dataclass(frozen=True)
class VqaFiles:
    """The files of a question-answering data set, named or found in its folder."""

    train: list[Path]
    valid: list[Path]
    regions: list[Path]
    vocabulary: Path
    answers: AnswerMap

    @classmethod
    def of(cls, data: VqaData) -> VqaFiles:
        """Names win over the folder."""
        folder = VqaFolder(data.folder) if data.folder else None
        train = data.train or ([folder.train] if folder else [])
        held_out = folder.valid if folder else None
        if data.answers is not None:
            answers = _listed_answers(data.answers)
        elif folder is not None and not data.train:
            answers = folder.answers()
        else:
            labels = (question.label or {} for path in train for question in iter_questions(path))
            answers = AnswerMap.from_labels(labels, source=_names(train))
        return cls(
            train,
            data.valid or ([held_out] if held_out else []),
            list(data.regions) or ([folder.regions] if folder else []),
            data.vocabulary or (folder.vocabulary if folder else Path()),
            answers,
        )


class AnswerTask(Task):
    """Soft scores by binary cross entropy, the original's loss; or the best answer by cross entropy."""

    title = "Fine-tuning"

    def __init__(self, settings: FinetuneSettings) -> None:
        data = settings.data
        assert isinstance(data, VqaData)
        self.files = files = VqaFiles.of(data)
        self.text = TextEncoder(files.vocabulary, data.max_length)
        self.store = open_regions(files.regions, settings.run)
        self.answers = files.answers
        self.workers = settings.run.workers
        self.questions_per_image = data.questions_per_image

        self.notes: list[str] = []
        self.categorical = settings.loss == "categorical"

        def dataset(paths: list[Path], use: str, best_answer: bool = False) -> VqaDataset:
            made = VqaDataset(
                paths,
                self.store,
                self.text,
                self.answers,
                unknown_answers=data.unknown_answers,
                blind=data.blind,
                images_per_file=IMAGES_PER_FILE[data.subset],
                best_answer=best_answer,
            )
            self.notes.append(
                f"{use}: {len(made):,} questions of {_names(paths)}, "
                f"{made.unknown:,} answers outside the list left out"
            )
            return made

        self.train: VqaDataset = dataset(files.train, "training", self.categorical)
        if not self.train.labelled:
            raise InputError(
                f"{_names(files.train)}: its questions have no labels, nothing can be learnt from them"
            )
        self.valid = dataset(files.valid, "validation") if files.valid else None
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
            names = read_answers(table).names
            _check_order(table, names, source / LABEL2ANS)
            rows = load_answer_rows(model, state, names, self.answers.names, source)
            self.notes.append(
                f"answers: {rows.copied:,} of {len(self.answers):,} rows from {source}, "
                f"zeroed: {', '.join(map(repr, rows.zeroed[:8])) or 'none'}"
                + (f" and {len(rows.zeroed) - 8:,} more" if len(rows.zeroed) > 8 else "")
            )
        else:
            load_backbone(model, state, source)
            self.notes.append(
                f"answers: 0 of {len(self.answers):,} rows from {source}: it has no {LABEL2ANS}, "
                "nor is there a model.start_answers"
            )
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
        return super().counts(batch) | {
            "tokens": float(batch.inputs["attention_mask"].sum()),
            "flops": self.training_flops(batch),
        }

    def weighed(self, output: Any, share: Counts) -> Tensor:
        loss = super().weighed(output, share)
        # `--mceLoss` (reference 4): as large as the sum over answers, for the sake of clipping
        return loss * len(self.answers) if self.categorical else loss

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


def _names(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _listed_answers(label2ans: Path) -> AnswerMap:
    """A list of answers; an `ans2label.json` beside it must say the same."""
    ans2label = label2ans.with_name(label2ans.name.replace("label2ans", "ans2label"))
    beside = ans2label != label2ans and ans2label.is_file()
    return AnswerMap.from_files(ans2label if beside else None, label2ans)


def _check_order(table: Path, names: list[str], own: Path) -> None:
    """A model folder knows the answers of its head: another list, or another order, is a mistake."""
    if table == own or not own.is_file():
        return
    known = read_answers(own).names
    where = next(
        (row for row, pair in enumerate(zip(names, known, strict=False)) if pair[0] != pair[1]), None
    )
    if where is not None:
        raise InputError(
            f"{table}: answer {where} is {names[where]!r:.60}, the model's own {own} has {known[where]!r:.60}"
        )
