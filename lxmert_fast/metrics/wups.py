"""WUPS (Malinowski and Fritz 2014, section 4): answers that are near the right ones count in part.

For a question with the set of right answers T and the set of answers A

    min( prod over a in A of max over t in T of m(a, t),  prod over t in T of max over a in A of m(a, t) )

m(a, t) is 1 for equal answers, else the Wu-Palmer similarity of the nearest noun senses of the two, times 0.1
where it is below the threshold. WUPS@0.9 asks for near synonyms, WUPS@0.0 weighs every similarity in full; an
answer that WordNet does not know as a noun is like nothing but itself.
"""

from __future__ import annotations

from collections.abc import Set
from math import prod

from lxmert_fast.metrics.wordnet import Nouns

BELOW = 0.1
"""Factor of a similarity below the threshold."""
THRESHOLDS = (0.9, 0.0)


class Wups:
    """Scores of answers against right answers, with the nouns of one WordNet."""

    def __init__(self, nouns: Nouns) -> None:
        self._nouns = nouns
        self._similarity: dict[tuple[str, str], float] = {}

    def __call__(self, answers: Set[str], right: Set[str], threshold: float) -> float:
        """The score of one question, in [0, 1]; both sets hold something."""

        def measure(answer: str, truth: str) -> float:
            if answer == truth:
                return 1.0
            similarity = self.similarity(answer, truth)
            return similarity if similarity >= threshold else BELOW * similarity

        return min(
            prod(max(measure(answer, truth) for truth in right) for answer in answers),
            prod(max(measure(answer, truth) for answer in answers) for truth in right),
        )

    def similarity(self, answer: str, truth: str) -> float:
        """The largest similarity of their noun senses; 0 where one has none."""
        if (answer, truth) not in self._similarity:
            self._similarity[answer, truth] = max(
                (
                    self._nouns.similarity(one, other)
                    for one in self._nouns.synsets(answer)
                    for other in self._nouns.synsets(truth)
                ),
                default=0.0,
            )
        return self._similarity[answer, truth]
