"""NLVR v1 as a data-set folder: questions, pre-training files, regions, pictures, vocabulary, answers."""

from __future__ import annotations

from collections.abc import Container
from itertools import permutations
from pathlib import Path

from lxmert_fast.data.aggregate import aggregate
from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.json_writing import write_entries
from lxmert_fast.data.nlvr import ANSWERS, Example, read_official, read_training
from lxmert_fast.data.nlvr_regions import BOXES, draw, write_regions
from lxmert_fast.data.text import learn_vocabulary, read_vocabulary
from lxmert_fast.data.vqa import Question, entry_of
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, writing
from lxmert_fast.metrics.nlvr import plain

ORDERS = tuple(permutations(range(BOXES)))
"""Of the boxes, which carries no meaning; the first is that of the file."""
KINDS = {True: "sentence in training", False: "new sentence"}
VOCABULARY_SIZE = 2000


def make_folder(
    source: Path, folder: Path, *, orders: int = len(ORDERS), vocabulary: Path | None = None
) -> None:
    """Make a data-set folder: questions, pre-training file, regions, pictures, vocabulary, answers.

        train.json        each pair once for each box order, "question_id" SENTENCE/SCENE/ORDER
        valid.json        the official development set; test.json: Test-P
        pretrain.json     the training pairs in the aggregated format, category "nlvr"
        pretrain_valid.json   the development set likewise
        regions.h5        of all images: train-SCENE-ORDER, valid-IDENTIFIER, test-IDENTIFIER
        images/           drawings of the last two, for looking at

    "question_type" says whether a sentence of valid.json and test.json occurs in training, by `plain`.

    Args:
        orders: box orders of a training scene, 1 to 6.
        vocabulary: a BERT vocabulary to use; by default one is learnt from the training sentences.

    Raises:
        InputError: a file that is missing or wrong, or cannot be written.
    """
    if not 1 <= orders <= len(ORDERS):
        raise InputError(f"orders: found {orders}, wanted 1 to {len(ORDERS)}")
    train = read_training(source)
    held_out = {"valid": read_official(source / "dev.json"), "test": read_official(source / "test.json")}
    known = {plain(example.sentence) for example in train.examples}
    with writing(folder):
        pictures = folder / "images"
        pictures.mkdir(parents=True, exist_ok=True)
        for split, rows in held_out.items():
            for name, scene in rows.scenes.items():
                draw(scene.boxes).save(pictures / f"{split}-{name}.png")

    used = {example.scene for example in train.examples}
    images = [
        scene.ordered(order, f"train-{name}-{number}")
        for name, scene in train.scenes.items()
        if name in used
        for number, order in enumerate(ORDERS[:orders])
    ]
    questions = {
        "train": [_question(example, "train", order) for example in train.examples for order in range(orders)]
    }
    for split, rows in held_out.items():
        images += [scene.ordered(ORDERS[0], f"{split}-{name}") for name, scene in rows.scenes.items()]
        questions[split] = [_question(example, split, None, known) for example in rows.examples]
    for split, asked in questions.items():
        write_entries(folder / f"{split}.json", map(entry_of, asked))
    for name, split in (("pretrain", "train"), ("pretrain_valid", "valid")):
        write_entries(folder / f"{name}.json", aggregate({"nlvr": questions[split]}, {}))
    AnswerMap(ANSWERS).save(folder)
    if vocabulary is None:
        sentences = (f"{example.sentence} {example.label}" for example in train.examples)
        learn_vocabulary(list(dict.fromkeys(sentences)), folder / "vocab.txt", VOCABULARY_SIZE)
    else:
        replace_text(folder / "vocab.txt", "\n".join([*read_vocabulary(vocabulary), ""]))
    write_regions(folder / "regions.h5", images)


def _question(example: Example, split: str, order: int | None, known: Container[str] = ()) -> Question:
    parts = [example.scene] if order is None else [example.scene, str(order)]
    return Question(
        question_id=example.identifier if order is None else f"{example.identifier}/{order}",
        image_id="-".join([split, *parts]),
        sentence=example.sentence,
        label={example.label: 1.0},
        answer_type=example.label,
        question_type="" if order is not None else KINDS[plain(example.sentence) in known],
    )
