"""DAQUAR (Malinowski and Fritz 2014) as a data-set folder: indoor photos, people's questions.

A source folder, which must not be passed on (research use only), holds

    daquar_all.json           [{"question_id", "image_id", "split": "train" | "test", "question",
                                "answers": [str, ...]}, ...]; several answers are one set
    train_images_list.txt, test_images_list.txt     image ids, one a line
    features.npz              regions of all images, see `lxmert_fast.data.daquar_regions`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.daquar_regions import write_regions
from lxmert_fast.data.easyvqa import pretraining_entries, write_entries
from lxmert_fast.data.json_list import read_entries, shown, text_of
from lxmert_fast.data.text import learn_vocabulary, read_vocabulary
from lxmert_fast.data.vqa import read_questions
from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, writing

QUESTIONS = "daquar_all.json"
VALIDATION = 0.1
"""Share of the training images whose questions choose the epoch."""
VOCABULARY_SIZE = 2000


@dataclass(frozen=True)
class DaquarQuestion:
    """One entry of the source; several `answers` are one set, of which some are written twice."""

    question_id: int | str
    image_id: str
    sentence: str
    answers: tuple[str, ...]

    def entry(self) -> dict[str, Any]:
        """It in the format of `lxmert_fast.data.vqa`; every answer of the set scores 1."""
        return {
            "question_id": self.question_id,
            "img_id": self.image_id,
            "sent": self.sentence,
            "label": dict.fromkeys(self.answers, 1.0),
            "answer_type": self._answer_type(),
            "question_type": " ".join(self.sentence.split()[:2]),
        }

    def _answer_type(self) -> str:
        if len(self.answers) > 1:
            return "set"
        if self.answers[0].isdigit():
            return "number"
        words = self.sentence.split()
        return "colour" if "colour" in words or "color" in words else "thing"


@dataclass(frozen=True)
class Splits:
    """Image ids of the two lists, in their order, without one in common."""

    train: list[str]
    test: list[str]

    @classmethod
    def read(cls, source: Path) -> Splits:
        """Raises `InputError` for a list that is missing, empty or not UTF-8, or holds an id twice."""
        train, test = (_read_list(source / f"{name}_images_list.txt") for name in ("train", "test"))
        if both := set(train) & set(test):
            raise InputError(
                f"{source / 'test_images_list.txt'}: {min(both)!r} is also in train_images_list.txt "
                f"({len(both)} such ids), wanted lists without a common image"
            )
        return cls(train, test)

    def validation(self, share: float) -> set[str]:
        """About this share of the training images, to choose epochs by.

        The photos are numbered scene by scene and whole scenes are test scenes, so numbers that follow one
        another are views of one place. Whole runs of them are taken, spread evenly: no photo of a validation
        scene is learnt from. At least one run is taken.
        """
        runs: list[list[str]] = []
        last = None
        for number, image_id in sorted((_number(image_id), image_id) for image_id in self.train):
            if number - 1 != last:
                runs.append([])
            runs[-1].append(image_id)
            last = number
        held: set[str] = set()
        passed = 0
        for run in runs:
            passed += len(run)
            if len(held) + len(run) / 2 <= share * passed:
                held.update(run)
        shortest = min(runs, key=len)
        return held or set(shortest)


def read_daquar(source: Path, splits: Splits) -> tuple[list[DaquarQuestion], list[DaquarQuestion]]:
    """Training and test questions.

    Raises:
        InputError: an entry that is not in the format, a question id that occurs twice, an image that the
            list of the entry's split does not hold.
    """
    questions: dict[str, list[DaquarQuestion]] = {"train": [], "test": []}
    images = {"train": set(splits.train), "test": set(splits.test)}
    seen: dict[int | str, str] = {}
    for place, entry in read_entries(source / QUESTIONS):
        question, split = _parse(place, entry)
        first = seen.setdefault(question.question_id, place)
        if first != place:
            raise InputError(
                f"{place}: question_id {question.question_id!r:.60} is also that of "
                f"{first.rpartition(': ')[2]}"
            )
        if question.image_id not in images[split]:
            raise InputError(
                f"{place}: image {question.image_id!r:.60} of split {split!r} is not in "
                f"{split}_images_list.txt"
            )
        questions[split].append(question)
    return questions["train"], questions["test"]


def export(source: str | Path, folder: str | Path, vocabulary: str | Path | None = None) -> dict[str, int]:
    """Write a data-set folder (`lxmert_fast.data.vqa.VqaFolder`):

    train.json         questions of the training images but those held out, sets of answers too
    valid.json         questions with one answer of the held-out images (`Splits.validation`)
    train_valid.json   all training questions, to train on when the epochs are chosen
    test.json          the test questions with one answer, the subset that accuracy is published on
    test_all.json      all test questions
    pretrain.json      train_valid.json in the aggregated format: no image of the test, nor its questions
    ans2label.json, label2ans.json    every answer of the training questions
    vocab.txt          `vocabulary`, or one learnt from the training questions and answers
    regions.h5         regions of the training and the test images, replaced where they are there

    Returns:
        What each file holds: questions, images (pretrain.json, regions.h5), answers or tokens.

    Raises:
        InputError: a file of the source that is missing or wrong, a folder that can't be written.
    """
    source, folder = Path(source), Path(folder)
    splits = Splits.read(source)
    train, test = read_daquar(source, splits)
    held = splits.validation(VALIDATION)
    if vocabulary is not None:
        read_vocabulary(Path(vocabulary))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = {
        "train.json": [question for question in train if question.image_id not in held],
        "valid.json": [question for question in _single(train) if question.image_id in held],
        "train_valid.json": train,
        "test.json": _single(test),
        "test_all.json": test,
    }
    counts = {}
    for name, questions in files.items():
        if not questions:
            raise InputError(f"{source / QUESTIONS}: found no question for {name}")
        write_entries(folder / name, [question.entry() for question in questions])
        counts[name] = len(questions)
    entries = pretraining_entries(read_questions(folder / "train_valid.json"))
    for entry in entries:
        entry["sentf"]["statement"] = [_spoken(sentence) for sentence in entry["sentf"]["statement"]]
    write_entries(folder / "pretrain.json", entries)
    counts["pretrain.json"] = len(entries)
    answers = AnswerMap.from_labels(question.entry()["label"] for question in train)
    with writing(folder):
        answers.save(folder)
    counts["label2ans.json"] = len(answers)
    words = folder / "vocab.txt"
    with writing(words):
        if vocabulary is None:
            sentences = (text for q in train for text in (q.sentence, *map(_spoken, q.answers)))
            learn_vocabulary(sentences, words, VOCABULARY_SIZE)
        elif Path(vocabulary).resolve() != words.resolve():
            replace_text(words, Path(vocabulary).read_text(encoding="utf-8"))
    counts["vocab.txt"] = len(read_vocabulary(words))
    counts["regions.h5"] = write_regions(
        source, [*splits.train, *splits.test], folder / "regions.h5", overwrite=True
    )
    return counts


def _single(questions: Iterable[DaquarQuestion]) -> list[DaquarQuestion]:
    return [question for question in questions if len(question.answers) == 1]


def _spoken(text: str) -> str:
    """Answers of several words are written as "garbage_bin"."""
    return text.replace("_", " ")


def _parse(place: str, entry: dict[str, Any]) -> tuple[DaquarQuestion, str]:
    question_id = entry.get("question_id")
    if isinstance(question_id, bool) or not isinstance(question_id, (int, str)):
        raise InputError(f"{place}: question_id: found {shown(question_id)}, wanted a number or string")
    place = f"{place} (question {question_id!r:.60})"
    split = entry.get("split")
    if split not in ("train", "test"):
        raise InputError(f"{place}: split: found {shown(split)}, wanted 'train' or 'test'")
    answers = entry.get("answers")
    if not isinstance(answers, list) or not answers:
        raise InputError(f"{place}: answers: found {shown(answers)}, wanted a list of one or more strings")
    for answer in answers:
        if not text_of(answer, place, "answers").strip():
            raise InputError(f"{place}: answers: found {shown(answer)}, wanted a word")
    image_id, sentence = (text_of(entry.get(key), place, key) for key in ("image_id", "question"))
    return DaquarQuestion(question_id, image_id, sentence, tuple(answers)), split


def _read_list(path: Path) -> list[str]:
    try:
        ids = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8, wanted an image id a line") from None
    if not ids:
        raise InputError(f"{path}: empty, wanted an image id a line")
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise InputError(f"{path}: found {image_id!r:.60} twice, wanted distinct image ids")
        seen.add(image_id)
    return ids


def _number(image_id: str) -> int:
    digits = "".join(character for character in image_id if character.isdecimal())
    return int(digits) if digits else -1
