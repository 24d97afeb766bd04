"""A WordNet folder of eleven nouns, in the format of wndb(5).

entity 0 - furniture 1 - seat 2 - chair 3, sofa 3
                       - table 2
         - colour 1 - red 2, blue 2
         - pet 1 - cat 2; cat is also an animal 1 - cat
"""

from __future__ import annotations

from pathlib import Path

_PARENTS = {
    "entity": [],
    "furniture": ["entity"],
    "seat": ["furniture"],
    "chair": ["seat"],
    "sofa": ["seat"],
    "table": ["furniture"],
    "colour": ["entity"],
    "red": ["colour"],
    "blue": ["colour"],
    "pet": ["entity"],
    "animal": ["entity"],
    "cat": ["pet", "animal"],
}


def write_wordnet(folder: Path) -> Path:
    """Write index.noun, data.noun and noun.exc, with a licence on top of the first two."""
    folder.mkdir(parents=True, exist_ok=True)
    licence = "  1 This is a licence.\n"

    def line(word: str, offsets: dict[str, int]) -> str:
        pointers = [f"@ {offsets.get(parent, 0):08d} n 0000" for parent in _PARENTS[word]]
        fields = [f"{offsets.get(word, 0):08d} 06 n 01 {word} 0 {len(pointers):03d}", *pointers]
        return " ".join([*fields, "| what it is"]) + "\n"

    offsets: dict[str, int] = {}
    place = len(licence)
    for word in _PARENTS:
        offsets[word] = place
        place += len(line(word, {}))
    (folder / "data.noun").write_text(licence + "".join(line(word, offsets) for word in _PARENTS))
    index = (f"{word} n 1 1 @ 1 0 {offset:08d}\n" for word, offset in sorted(offsets.items()))
    (folder / "index.noun").write_text(licence + "".join(index))
    (folder / "noun.exc").write_text("pussies cat\n")
    return folder
