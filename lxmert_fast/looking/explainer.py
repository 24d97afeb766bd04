"""What a model does with one question about one image: attention of every head, answers, hidden words.

Cross attention goes both ways in every cross-modality layer (section 2.2): words read boxes and boxes read
words, through one set of weights. Hugging Face's classes give the first direction only (reference 1.6, item
11); this library's record both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from lxmert_fast.answering import LABEL2ANS, VOCABULARY, Answer
from lxmert_fast.checkpoint import load_model
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.regions import Regions, RegionStore
from lxmert_fast.data.text import TextEncoder, read_vocabulary
from lxmert_fast.errors import InputError
from lxmert_fast.inputs import check_fits
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

#: Models of one question and one image.
Looked: TypeAlias = LxmertForQuestionAnswering | LxmertForPreTraining


@dataclass(frozen=True)
class Explanation:
    """One question about one image. L cross-modality layers of `heads` heads, T tokens, O boxes."""

    question: str
    image: str
    words: list[str]
    """T tokens, [CLS] and [SEP] among them."""
    boxes: np.ndarray
    """(O, 4) float32, x1, y1, x2, y2 as shares of the picture's sides."""
    size: tuple[int, int]
    """Width and height of the picture, pixels."""
    words_to_boxes: np.ndarray
    """(L, heads, T, O) float32: how much each word reads of each box; rows sum to 1."""
    boxes_to_words: np.ndarray
    """(L, heads, O, T) float32: how much each box reads of each word; rows sum to 1."""
    answers: list[Answer]
    """Best first; empty for a model without an answer head."""
    guesses: list[list[Answer]] | None
    """For each of the T tokens, hidden in turn, the likeliest tokens; [] for [CLS] and [SEP], which are never
    hidden; None where no model with a language-modelling head was at hand."""


class Explainer:
    """A model, its vocabulary and its answers, looked into.

    Args:
        model: with an answer head; in evaluation mode, on any device.
        text: the vocabulary that it was trained with.
        answers: one name per row of its answer head; None where it has none.
        words: a pre-training model of the same vocabulary that guesses hidden words; the model itself if it
            is one.
        source: where the model is from, for messages.
    """

    def __init__(
        self,
        model: Looked,
        text: TextEncoder,
        answers: AnswerMap | None,
        words: LxmertForPreTraining | None = None,
        source: str | Path = "model",
    ) -> None:
        self.model, self.text, self.answers, self.source = model, text, answers, source
        self.words = model if words is None and isinstance(model, LxmertForPreTraining) else words

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, pretrained: str | Path | None = None, device: str | torch.device = "cpu"
    ) -> Explainer:
        """Open a model folder as `lxmert-fast finetune` or `pretrain` writes it.

        Args:
            pretrained: folder of the pre-training model that guesses hidden words.

        Raises:
            InputError: a folder or a file in it is missing or does not fit, a model of another kind, two
                vocabularies.
        """
        model, text = _open(Path(folder))
        if not model.config.x_layers:
            raise InputError(
                f"{folder}: a model without cross-modality layers, there is no attention to show"
            )
        answers = None
        if isinstance(model, LxmertForQuestionAnswering) or model.config.task_qa:
            answers = AnswerMap.from_files(None, _file(Path(folder), LABEL2ANS))
            if len(answers) != model.config.num_qa_labels:
                raise InputError(
                    f"{answers.source}: {len(answers)} answers, the model's head has "
                    f"{model.config.num_qa_labels}"
                )
        words = None
        if pretrained is not None:
            guessing, its_text = _open(Path(pretrained))
            if not isinstance(guessing, LxmertForPreTraining):
                raise InputError(f"{pretrained}: a {type(guessing).__name__}, wanted a LxmertForPreTraining")
            words = guessing
            if read_vocabulary(its_text.vocabulary) != read_vocabulary(text.vocabulary):
                raise InputError(f"{its_text.vocabulary}: another vocabulary than {text.vocabulary}")
            words.to(torch.device(device))  # type: ignore[arg-type]
        model.to(torch.device(device))  # type: ignore[arg-type]
        return cls(model, text, answers, words, folder)

    def check(self, store: RegionStore) -> None:
        """Raise `InputError` unless the store's features are those that the models take."""
        for model in (self.model, self.words):
            if model is not None:
                check_fits(model.config, self.text, store, self.source)

    @torch.inference_mode()
    def __call__(self, question: str, image: str, store: RegionStore, top: int = 5) -> Explanation:
        """Look at one question about one image of a store; `top` answers and guesses a word.

        Raises:
            InputError: a question without words, an image that the store does not hold, a model that gives
                numbers that are not finite.
        """
        check_question(question)
        regions = store[image]
        ids = torch.from_numpy(self.text.encode_ragged([question])[0].astype(np.int64))
        output = self.model(ids[None].to(self.model.device), *self._vision(regions), output_attentions=True)
        pair = [
            torch.stack([layer[0] for layer in layers]).float().cpu().numpy()
            for layers in (output.cross_encoder_attentions, output.cross_encoder_vision_attentions)
        ]
        if not all(np.isfinite(weights).all() for weights in pair):
            raise InputError(f"{self.source}: its attention to image {image!r} is not finite")
        width, height = regions.sizes[0].tolist()
        return Explanation(
            question=question,
            image=image,
            words=[self.text.decode([token]) for token in ids.tolist()],
            boxes=regions.boxes[0],
            size=(width, height),
            words_to_boxes=pair[0],
            boxes_to_words=pair[1],
            answers=self._answers(output.question_answering_score[0], top),
            guesses=None if self.words is None else self._guesses(self.words, ids, regions, top),
        )

    def _vision(self, regions: Regions) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.model.device
        return torch.from_numpy(regions.features).to(device), torch.from_numpy(regions.boxes).to(device)

    def _answers(self, scores: torch.Tensor, top: int) -> list[Answer]:
        """By the probability that training made of the scores: one answer of all, or each on its own."""
        if self.answers is None:
            return []
        one_of_all = isinstance(self.model, LxmertForPreTraining)
        shares = scores.float().softmax(0) if one_of_all else scores.float().sigmoid()
        return _best(shares, self.answers.names.__getitem__, top)

    def _guesses(
        self, model: LxmertForPreTraining, ids: torch.Tensor, regions: Regions, top: int
    ) -> list[list[Answer]]:
        places = torch.arange(1, len(ids) - 1)
        if not len(places):
            return [[] for _ in ids]
        hidden = ids.repeat(len(places), 1)
        hidden[torch.arange(len(places)), places] = self.text.mask_id
        output = model(
            hidden.to(model.device),
            *self._vision(regions),
            image_index=torch.zeros(len(places), dtype=torch.int64),
        )
        rows = output.prediction_logits[torch.arange(len(places)), places].float().softmax(-1)
        # an embedding may have more rows than the vocabulary has tokens
        rows = rows[:, : self.text.vocab_size]
        found = [_best(row, lambda token: self.text.decode([token]), top) for row in rows]
        return [[], *found, []]


def check_question(question: str) -> None:
    """Raise `InputError` for a question without words, or with half characters."""
    if not question.strip():
        raise InputError("the question is empty, wanted a sentence")
    if any(0xD800 <= ord(character) < 0xE000 for character in question):
        raise InputError("the question is not UTF-8, wanted a sentence")


def _best(shares: torch.Tensor, name: Callable[[int], str], top: int) -> list[Answer]:
    values, places = shares.topk(min(top, len(shares)))
    return [Answer(name(place), value) for value, place in zip(values.tolist(), places.tolist(), strict=True)]


def _open(folder: Path) -> tuple[Looked, TextEncoder]:
    """A model of one question and one image, and its vocabulary."""
    text = TextEncoder(_file(folder, VOCABULARY))
    model: Looked = load_model(folder)
    if not isinstance(model, (LxmertForQuestionAnswering, LxmertForPreTraining)):
        raise InputError(
            f"{folder}: a {type(model).__name__}, wanted a LxmertForQuestionAnswering or a "
            "LxmertForPreTraining"
        )
    return model, text


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise InputError(
            f"{folder}: no {name} in it, wanted a model folder as `lxmert-fast finetune` or `pretrain` "
            "writes it"
        )
    return folder / name
