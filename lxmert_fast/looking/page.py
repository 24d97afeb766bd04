"""Pages that need nothing but themselves: a template with JSON in it, and an explanation as such a page."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from PIL import Image

from lxmert_fast.answering import Answer

from .explainer import Explanation
from .pictures import data_uri

MARK = "{{json}}"
#: Digits of an attention weight on the page; a weight below 5e-5 is shown as 0.
DIGITS = 4


def fill(template: str, content: dict[str, Any]) -> str:
    """A template of this folder with JSON at its mark.

    Whatever text is in `content` cannot end the script element that holds it, and templates put it on the
    page as text, never as HTML.
    """
    page = files(__package__).joinpath(template).read_text(encoding="utf-8")
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return page.replace(MARK, text)


def explanation_page(found: Explanation, picture: Image.Image | None = None) -> str:
    """One HTML page: the picture (or its boxes alone), the words, every head of every layer, both ways."""

    def scores(answers: list[Answer]) -> list[list[str | float]]:
        return [[answer.text, round(answer.score, DIGITS)] for answer in answers]

    return fill(
        "explanation.html",
        {
            "question": found.question,
            "image": found.image,
            "words": found.words,
            "boxes": found.boxes.astype(float).round(5).tolist(),
            "size": found.size,
            "picture": None if picture is None else data_uri(picture),
            "wordsToBoxes": found.words_to_boxes.astype(float).round(DIGITS).tolist(),
            "boxesToWords": found.boxes_to_words.astype(float).round(DIGITS).tolist(),
            "answers": scores(found.answers),
            "guesses": None if found.guesses is None else [scores(guess) for guess in found.guesses],
        },
    )
