"""Ask a fine-tuned model: a question in words, an image by its id."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .checkpoint import load_model
from .data.answers import AnswerMap
from .data.regions import Regions, RegionStore
from .data.text import TextEncoder
from .errors import InputError
from .inputs import check_fits
from .models import LxmertForImagePairs, LxmertForQuestionAnswering
from .weight_files import read_config

VOCABULARY = "vocab.txt"
LABEL2ANS = "label2ans.json"


@dataclass(frozen=True)
class Answer:
    """One answer and the model's score for it, a probability in [0, 1]."""

    text: str
    score: float


class Answerer:
    """A fine-tuned question-answering model with its vocabulary, its answers and a store of regions.

    Args:
        model: on any device; put into evaluation mode.
        text: the vocabulary that the model was trained with.
        answers: one name per row of the model's answer head.
        regions: where image ids are looked up.

    Raises:
        InputError: vocabulary, answers or features do not fit the model.
    """

    def __init__(
        self,
        model: LxmertForQuestionAnswering,
        text: TextEncoder,
        answers: AnswerMap,
        regions: RegionStore,
    ) -> None:
        check_fits(model.config, text, regions, "model")
        if len(answers) != model.config.num_qa_labels:
            raise InputError(
                f"{answers.source}: {len(answers)} answers, the model's head has {model.config.num_qa_labels}"
            )
        self.model = model.eval()
        self.text = text
        self.answers = answers
        self.regions = regions

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, regions: str | Path | RegionStore, device: str = "cpu"
    ) -> Answerer:
        """Open a model folder as `lxmert-fast finetune` writes it, and a region store."""
        model, text, answers = open_model_folder(Path(folder))
        store = regions if isinstance(regions, RegionStore) else RegionStore(regions)
        model.to(torch.device(device))  # type: ignore[arg-type]
        return cls(model, text, answers, store)

    def __call__(self, question: str, image: str, top: int = 1) -> list[Answer]:
        """The `top` best answers, best first.

        Args:
            question: one sentence.
            image: its id in the region store.

        Raises:
            InputError: an image that the store does not hold.
        """
        scores = self.scores([question], self.regions[image])[0]
        best = scores.topk(min(top, len(self.answers)))
        return [Answer(self.answers.names[i], float(p)) for p, i in zip(*best, strict=True)]

    @torch.inference_mode()
    def attention(self, question: str, image: str) -> tuple[list[str], np.ndarray]:
        """Where the words look: T tokens, and each one's weights over the regions (T, O), mean over heads.

        From text to objects in the last cross-modality layer; each row sums to 1.
        """
        regions = self.regions[image]
        ids = self.text.encode_ragged([question])[0].astype(np.int64)
        output = self.model(
            torch.from_numpy(ids)[None].to(self.model.device),
            torch.from_numpy(regions.features).to(self.model.device),
            torch.from_numpy(regions.boxes).to(self.model.device),
            output_attentions=True,
        )
        weights = output.cross_encoder_attentions[-1][0].float().mean(0)
        return [self.text.decode([token]) for token in ids], weights.cpu().numpy()

    @torch.inference_mode()
    def scores(self, questions: Sequence[str], regions: Regions) -> torch.Tensor:
        """Scores of every answer to several questions about one image: (S, A), each in [0, 1]."""
        device = self.model.device
        ids, mask = self.text.encode(questions)
        output = self.model(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(regions.features).to(device),
            torch.from_numpy(regions.boxes).to(device),
            torch.from_numpy(mask).to(device),
            image_index=torch.zeros(len(questions), dtype=torch.int64, device=device),
        )
        return output.question_answering_score.float().sigmoid().cpu()


def save_model_folder(
    model: PreTrainedModel,
    text: TextEncoder,
    answers: Sequence[str],
    folder: Path,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write a model with its vocabulary and its answers, so that the folder is all that is needed later.

    Args:
        answers: none for a model without an answer head or of image pairs.
        weights: by name; they stand for the model's own, which may be in half precision or in pieces on many
            ranks.
    """
    model.config.text_length = text.max_length
    model.save_pretrained(folder, state_dict=weights)
    shutil.copyfile(text.vocabulary, folder / VOCABULARY)
    if answers:
        AnswerMap(answers).save(folder)


def describe_model(model: PreTrainedModel, text: TextEncoder, answers: Sequence[str]) -> dict[str, Any]:
    """What beside its weights makes a model folder, in plain values: class, config, vocabulary, answers."""
    model.config.text_length = text.max_length
    return {
        "class": type(model).__name__,
        "config": json.loads(model.config.to_json_string(use_diff=False)),
        "vocabulary": text.vocabulary.read_text(encoding="utf-8"),
        "answers": list(answers),
    }


def open_model_folder(folder: Path) -> tuple[LxmertForQuestionAnswering, TextEncoder, AnswerMap]:
    """Read what `save_model_folder` wrote for a question-answering model.

    Raises:
        InputError: a folder or a file in it is missing or does not fit.
    """
    model, text = _open(folder, LxmertForQuestionAnswering, (VOCABULARY, LABEL2ANS))
    return model, text, AnswerMap.from_files(None, folder / LABEL2ANS)


def open_pair_folder(folder: Path) -> tuple[LxmertForImagePairs, TextEncoder]:
    """Read what `save_model_folder` wrote for a model of image pairs; raises like `open_model_folder`."""
    return _open(folder, LxmertForImagePairs, (VOCABULARY,))


def is_pair_folder(folder: Path) -> bool:
    """Whether `config.json` says that a folder holds a model of image pairs; False where there is none."""
    if not (folder / "config.json").is_file():
        return False
    return LxmertForImagePairs.__name__ in (read_config(folder).architectures or ())


def _open(folder: Path, model_class: type[PreTrainedModel], files: Sequence[str]) -> tuple[Any, TextEncoder]:
    for name in files:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: no {name} in it, wanted a model folder as `lxmert-fast finetune` writes it"
            )
    model = load_model(folder, model_class)
    # folders of before the length was written down
    length = getattr(model.config, "text_length", TextEncoder.DEFAULT_LENGTH)
    return model, TextEncoder(folder / VOCABULARY, length)
