"""Sentences of several data sets by image: the aggregated pre-training format (reference 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lxmert_fast.data.vqa import Question
from lxmert_fast.errors import InputError


def aggregate(
    questions: Mapping[str, Iterable[Question]], sentences: Mapping[str, Iterable[tuple[str, str]]]
) -> list[dict[str, Any]]:
    """Entries in the order in which their images come first.

    Args:
        questions: category ("vqa", "gqa", "visual7w") to labelled questions.
        sentences: category ("mscoco") to pairs of image and sentence.

    Raises:
        InputError: a question without label.
    """
    entries: dict[str, dict[str, Any]] = {}

    def entry_of(image: str) -> dict[str, Any]:
        return entries.setdefault(image, {"img_id": image, "sentf": {}, "labelf": {}})

    for category, asked in questions.items():
        for question in asked:
            if question.label is None:
                raise InputError(
                    f"question {question.question_id!r:.60} has no label, pre-training needs one"
                )
            entry = entry_of(question.image_id)
            entry["sentf"].setdefault(category, []).append(question.sentence)
            entry["labelf"].setdefault(category, []).append(question.label)
    for category, said in sentences.items():
        for image, sentence in said:
            entry_of(image)["sentf"].setdefault(category, []).append(sentence)
    return list(entries.values())
