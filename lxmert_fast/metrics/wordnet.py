"""WordNet's nouns (Miller 1995) and the similarity of Wu and Palmer (1994), from the files of WordNet 3.

A WordNet folder holds index.noun, data.noun and noun.exc in the format of the manual page wndb(5). Debian's
package wordnet-base puts version 3.0, which published figures are made with, in /usr/share/wordnet; another
place is named by the environment variable WNSEARCHDIR, which is that of WordNet's own programs. Where a
synset has several ways to the root, the choices are those of NLTK, which published figures are made with too.
(NLTK itself does not read Debian's folder: it wants files that are not in it and that nothing here needs.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lxmert_fast.errors import InputError

FOLDER = Path("/usr/share/wordnet")
#: Pointers to what a synset is a kind of or an instance of.
_HYPERNYMS = ("@", "@i")
#: Endings of inflected nouns and what takes their place (manual page morphy(7)).
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


class Nouns:
    """The nouns of a WordNet folder, Debian's if none is named; a synset is its offset in data.noun.

    Raises:
        InputError: a file that is missing or not in the format.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get("WNSEARCHDIR") or FOLDER)
        self._data = self._read("data.noun")
        self._index: dict[str, list[int]] = {}
        for number, fields in self._lines("index.noun"):
            try:
                self._index[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]
            except (IndexError, ValueError):
                raise InputError(
                    f"{self.folder / 'index.noun'}: line {number}: found {' '.join(fields)[:60]!r}, wanted "
                    "lemma pos count ... offsets"
                ) from None
        self._inflected = {fields[0]: fields[1:] for _, fields in self._lines("noun.exc")}
        self.synsets = cache(self._synsets)
        self.similarity = cache(self._similarity)
        self._heard = cache(self._synset)
        self._above = cache(self._steps_up)
        self._depths = cache(self._depths_of)

    def _synsets(self, word: str) -> list[int]:
        """The synsets of a noun and of what it may be the plural of; [] for an unknown word."""
        word = word.lower()
        bases = self._inflected.get(word)
        if bases is None:
            bases = [word.removesuffix(end) + new for end, new in _ENDINGS if word.endswith(end)]
        return [synset for form in dict.fromkeys([word, *bases]) for synset in self._index.get(form, ())]

    def _similarity(self, one: int, other: int) -> float:
        """2 d / (2 d + the steps from both to their lowest common hypernym), d its depth, the root's being 1.

        The lowest is the one whose shortest way from the root is longest, among equals `one` or the first by
        name; d counts its longest way. 0 where they have nothing in common.
        """
        both = self._above(one).keys() & self._above(other).keys()
        if not both:
            return 0.0
        deepest = max(self._depths(synset)[0] for synset in both)
        lowest = [synset for synset in both if self._depths(synset)[0] == deepest]
        common = one if one in lowest else min(lowest, key=lambda synset: self._heard(synset)[0])
        depth = self._depths(common)[1] + 1
        return 2 * depth / (2 * depth + self._distance(one, common) + self._distance(other, common))

    def _distance(self, one: int, other: int) -> int:
        steps, others = self._above(one), self._above(other)
        return min(steps[synset] + others[synset] for synset in steps.keys() & others.keys())

    def _steps_up(self, synset: int) -> dict[int, int]:
        """The synset and every hypernym, with the fewest steps to it."""
        steps: dict[int, int] = {}
        level: Iterable[int] = [synset]
        while level:
            distance = max(steps.values(), default=-1) + 1
            steps |= dict.fromkeys(level, distance)
            level = {above for below in level for above in self._heard(below)[1]} - steps.keys()
        return steps

    def _depths_of(self, synset: int) -> tuple[int, int]:
        """Steps of the shortest and of the longest way to the root."""
        above = [self._depths(hypernym) for hypernym in self._heard(synset)[1]]
        return (1 + min(a for a, _ in above), 1 + max(b for _, b in above)) if above else (0, 0)

    def _synset(self, offset: int) -> tuple[str, tuple[int, ...]]:
        """Name, "chair.n.01", and hypernyms of a synset."""
        end = self._data.find(b"\n", offset)
        fields = self._data[offset:end].decode("utf-8", "replace").split()
        try:
            if int(fields[0]) != offset:
                raise ValueError
            lemma = fields[4].lower()
            first = 5 + 2 * int(fields[3], 16)
            pointers = [fields[first + 4 * i : first + 4 * i + 2] for i in range(int(fields[first - 1]))]
            hypernyms = tuple(int(to) for kind, to in pointers if kind in _HYPERNYMS)
            return f"{lemma}.n.{self._index[lemma].index(offset) + 1:02d}", hypernyms
        except (IndexError, KeyError, ValueError):
            raise InputError(
                f"{self.folder / 'data.noun'}: byte {offset}: found {' '.join(fields)[:50]!r}, "
                "wanted a synset"
            ) from None

    def _lines(self, name: str) -> Iterable[tuple[int, list[str]]]:
        """Lines that are not the licence, by number, in fields."""
        lines = self._read(name).decode("utf-8", "replace").splitlines()
        return ((n, line.split()) for n, line in enumerate(lines, 1) if line.strip() and line[0] != " ")

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{self.folder / name}: cannot be read ({error.strerror or error}); WUPS wants WordNet 3.0: "
                "apt-get install wordnet-base, or its folder in WNSEARCHDIR"
            ) from None
