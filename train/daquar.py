"""Fine-tuning on DAQUAR: question answering whose validation reports WUPS beside the accuracy."""

from __future__ import annotations

from typing import Any

from lxmert_fast.data.vqa import read_questions
from lxmert_fast.metrics.daquar import mean, scores_of
from lxmert_fast.metrics.wordnet import Nouns
from lxmert_fast.metrics.wups import Wups

from .evaluate import Answers
from .finetuning import AnswerTask
from .settings import FinetuneSettings


class DaquarTask(AnswerTask):
    """Raises `InputError` at once where WordNet is absent."""

    def __init__(self, settings: FinetuneSettings) -> None:
        super().__init__(settings)
        self.wups = Wups(Nouns())
        rows = (row for file in self.files.valid for row in read_questions(file))
        self.right = {row.question_id: row.label or {} for row in rows}

    def metrics(self, answers: Answers) -> dict[str, Any]:
        """The accuracy's metrics, then "wups_0.9" and "wups_0.0"."""
        rows = zip(answers.question_ids, answers.answers, strict=True)
        scores = mean([scores_of(answer, self.right[number], self.wups) for number, answer in rows])
        return super().metrics(answers) | {f"wups_{level}": value for level, value in scores.wups.items()}
