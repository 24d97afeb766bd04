"""VQA answers as the official evaluation compares them (VQA evaluation code, version 2; Antol et al. 2015).

In this order: line feeds and tabs are blanks; punctuation goes or becomes a blank; lower case; number words
up to ten are digits; articles go; contractions get the apostrophe that annotators left out.
"""

from __future__ import annotations

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The official pattern looks behind for a digit too, but is misspelt, so that "3." loses its full stop.
_FULL_STOP = re.compile(r"\.(?!\d)")
# The official code hands over a flag (re.UNICODE, 32) where the largest number of replacements belongs.
_FULL_STOPS = 32

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}

# The official list, without those with capitals ("Im"), which lower case never meets.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> set[str]:
    return {word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"}


# "couldnt've" and "couldn'tve" are known, "couldntve" is not; one entry of the list runs the other way
_SPELLINGS = {"somebody'd": "somebodyd"} | {
    short: word for word in _CONTRACTIONS.split() for short in _without_one_apostrophe(word)
}


def normalise_vqa(answer: str) -> str:
    """An answer as the official evaluation compares it."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    words = (_WORDS.get(word, word) for word in _without_punctuation(answer).lower().split())
    return " ".join(_SPELLINGS.get(word, word) for word in words if word not in _ARTICLES)


def soft_score(votes: int) -> float:
    """The score of an answer that `votes` of ten annotators gave (reference 3.4)."""
    return (0.0, 0.3, 0.6, 0.9, 1.0)[min(votes, 4)]


def _without_punctuation(answer: str) -> str:
    """A mark that stands beside a blank goes everywhere, any other becomes a blank; all go from an answer
    with a comma inside a number ("1,000")."""
    joined = _COMMA_IN_NUMBER.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        gone = joined or f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if gone else " ")
    return _FULL_STOP.sub("", text, count=_FULL_STOPS)
