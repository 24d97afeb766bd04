"""A question file of any length answered into the file that an evaluation server takes.

Questions are answered image by image, so that an image is read and encoded once, and written in their own
order. Answers so far stand beside OUT: after a kill the same command goes on with the next batch. The batches
are those of an unbroken run, so that the finished file has the same bytes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np

from lxmert_fast.commands.progress import progress
from lxmert_fast.data.question_index import QuestionIndex
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import Runs
from lxmert_fast.files import file_digest, lock, writing
from lxmert_fast.inputs import check_fits
from lxmert_fast.metrics.prediction_files import (
    FORMATS,
    check_answers,
    check_id,
    prepare_output,
    write_predictions,
)

from .evaluate import load
from .same import code_facts, digest, digest_of_regions
from .streaming import best_answers, grouped_batches


def predict_files(
    model_folder: Path,
    questions: Path,
    out: Path,
    regions: list[Path],
    *,
    batch_size: int = 256,
    device: str = "auto",
    compiled: bool = False,
    int8: bool = False,
    workers: int = 1,
    form: Literal["vqa", "gqa", "nlvr"] = "vqa",
) -> int:
    """Answer a question file into `out` (reference 3.7), in the order of the questions, written whole.

    At most about 45 bytes a question are in memory, whatever the texts; the file is read three times, once by
    jumping from question to question. `workers` processes read questions and regions ahead of the model.

    Returns:
        The number of answers.

    Raises:
        InputError: a file is missing or wrong, an id that the format does not take, another process that
            writes `out`.
    """
    loaded = load(model_folder, device, compiled, int8)
    check_answers(loaded.answers.names, FORMATS[form], model_folder)
    with RegionStore(*regions) as store:
        check_fits(loaded.model.config, loaded.text, store, model_folder)
        index = QuestionIndex(questions, store, loaded.text)
        if index.number is not None:
            check_id(index.number, FORMATS[form], questions)
        prepare_output(out)
        made_of = {
            **code_facts(),
            "model": [file_digest(file) for file in sorted(model_folder.iterdir()) if file.is_file()],
            "questions": file_digest(questions),
            "regions": digest_of_regions(store),
            "region files": [str(attributes) for attributes in store.attributes],
            "how": [batch_size, str(loaded.model.device), compiled, int8],
        }
        runs = Runs(index.images)
        batches = grouped_batches(runs, batch_size)
        scratch = out.with_name(f".{out.name}.answers")
        with closing(AnswerLog(scratch, digest([json.dumps(made_of)]), len(index), batch_size)) as log:
            batches.set_position(0, log.batches)
            with progress(questions.name, len(index), "questions", done=log.answers) as advance:
                for batch, best in best_answers(loaded.model, index, batches, workers=workers):
                    log.append(best)
                    advance(len(batch.example_ids))
            classes = np.empty(len(index), np.int32)
            classes[runs.in_order()] = log.read()
        names = loaded.answers.names
        rows = ((question_id, names[best]) for question_id, best in zip(index.ids(), classes, strict=True))
        write_predictions(out, rows, FORMATS[form], questions)
        scratch.unlink()
        return len(index)


class AnswerLog:
    """The answers of a run so far, in the order of its batches, in a file that only grows.

    A line with the run's fingerprint; then of each batch its answers, int32, and their CRC-32. What a kill
    left half written, or a dead machine as zeros, is cut off. Another fingerprint begins the file anew.

    Args:
        path: the file. fingerprint: of all that the answers follow from.
        questions: in the whole run. batch_size: in each batch but the last.

    Raises:
        InputError: it cannot be written, or another process does.
    """

    def __init__(self, path: Path, fingerprint: str, questions: int, batch_size: int) -> None:
        self.path = path
        self.questions = questions
        self.batch_size = batch_size
        self.batches = 0
        """How many are here."""
        with writing(path):
            self._file = path.open("a+b")
        try:
            lock(self._file.fileno(), path)
            self._head = f"{fingerprint}\n".encode()
            self._file.seek(0)
            if self._file.read(len(self._head)) == self._head:
                self.batches = sum(1 for _ in self._records())
            self._file.truncate(len(self._head) + 4 * (self.answers + self.batches) if self.batches else 0)
            if not self.batches:
                self._append(self._head)
        except BaseException:
            self._file.close()
            raise

    @property
    def answers(self) -> int:
        """How many are here."""
        return min(self.batches * self.batch_size, self.questions)

    def append(self, answers: np.ndarray) -> None:
        """The next batch's, (B,) integers. Raises `InputError` where they cannot be written."""
        content = answers.astype("<i4").tobytes()
        self._append(content + zlib.crc32(content).to_bytes(4, "little"))
        self.batches += 1

    def read(self) -> np.ndarray:
        """All answers, int32."""
        self._file.seek(len(self._head))
        return np.concatenate(list(self._records()))

    def close(self) -> None:
        """The file stays."""
        self._file.close()

    def _append(self, content: bytes) -> None:
        with writing(self.path):
            self._file.write(content)
            self._file.flush()

    def _records(self) -> Iterator[np.ndarray]:
        """The batches from here to the end or to the first that is not whole."""
        for first in range(0, self.questions, self.batch_size):
            content = self._file.read(4 * min(self.batch_size, self.questions - first))
            if self._file.read(4) != zlib.crc32(content).to_bytes(4, "little"):
                return
            yield np.frombuffer(content, "<i4")
