"""What `read_examples` found, kept on disk: the paper's nine million sentences are tokenised once, and not by
every rank at every start.

A file is named by a digest of all that its content follows from, so it is never out of date and needs no
care; any of them may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import tokenizers

from lxmert_fast.data.examples import Examples, SelectsAnswers, read_examples
from lxmert_fast.data.ragged import Ragged
from lxmert_fast.data.region_writer import disk_error
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.files import file_digest, replace_file

# to be raised when other examples are read from the same files, or are kept in another way
_VERSION = 1


def read_examples_once(
    paths: Sequence[str | Path],
    store: RegionStore,
    text: TextEncoder,
    answers: SelectsAnswers,
    folder: str | Path,
    images_per_file: int | None = None,
) -> Examples:
    """`read_examples`, or the same from a file that an earlier call left in `folder`.

    Of processes that call it at once one reads and the others wait, where the file system has locks; where
    it has none, each reads. A file that is damaged is made anew.

    Args:
        paths, store, text, answers, images_per_file: `read_examples`'.
        folder: made where it is missing; about 53 bytes a sentence are written below it.

    Raises:
        InputError: what `read_examples` raises; a folder that can't be written.
    """
    folder = Path(folder)
    path = folder / f"{_digest(paths, store, text, answers, images_per_file)}.npz"
    found = _load(path)
    if found:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error, 0) from error
    with ExitStack() as until_written:
        _lock(until_written, path.with_suffix(".lock"))
        found = _load(path)
        if found:
            return found
        found = read_examples(paths, store, text, answers, images_per_file)
        try:
            replace_file(path, lambda beside: _save(beside, found))
        except OSError as error:
            raise disk_error(path, error, found.nbytes) from error
    return found


def _digest(
    paths: Sequence[str | Path],
    store: RegionStore,
    text: TextEncoder,
    answers: SelectsAnswers,
    images_per_file: int | None,
) -> str:
    follows_from = [
        _VERSION,
        tokenizers.__version__,
        text.max_length,
        [file_digest(path) for path in (text.vocabulary, *paths)],
        type(answers).__name__,
        answers.names,
        list(store.image_ids),
        images_per_file,
    ]
    return hashlib.sha256(json.dumps(follows_from).encode()).hexdigest()


def _lock(until_written: ExitStack, path: Path) -> None:
    from filelock import FileLock

    try:
        until_written.enter_context(FileLock(path))
    except (OSError, NotImplementedError):  # some network disks have no locks
        return


def _save(path: Path, examples: Examples) -> None:
    arrays = {
        "sentences": examples.sentences.values,
        "sentence_offsets": examples.sentences.offsets,
        "images": examples.images,
        "categories": examples.categories,
        "numbers": examples.numbers,
        "answers": examples.answers.values,
        "answer_offsets": examples.answers.offsets,
        "scores": examples.scores,
        "category_names": np.array(json.dumps(examples.category_names)),
        "dropped_images": np.array(examples.dropped_images),
    }
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> Examples | None:
    """The examples of a file; None where there is none, or it is not whole (zip files have checksums)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Examples(
                sentences=Ragged(arrays["sentences"], arrays["sentence_offsets"]),
                images=arrays["images"],
                categories=arrays["categories"],
                numbers=arrays["numbers"],
                answers=Ragged(arrays["answers"], arrays["answer_offsets"]),
                scores=arrays["scores"],
                category_names=json.loads(arrays["category_names"].item()),
                dropped_images=int(arrays["dropped_images"]),
            )
    except (OSError, EOFError, KeyError, ValueError, BadZipFile):
        return None
