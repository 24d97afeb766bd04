"""A small part of NLVR's real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def cut_down_nlvr(source: Path, folder: Path, *, pairs: int, held_out: int) -> Path:
    """The first pairs with their scenes and sentences, and the first examples of dev and test."""
    lines = (source / "train_pairs.jsonl").read_text().splitlines()[:pairs]
    scenes = {json.loads(line)[1] for line in lines}
    kept = [
        row
        for row in (source / "train_scenes.jsonl").read_text().splitlines()
        if json.loads(row)[0] in scenes
    ]
    (folder / "train_pairs.jsonl").write_text("\n".join(lines))
    (folder / "train_scenes.jsonl").write_text("\n".join(kept))
    shutil.copyfile(source / "train_sentences.json", folder / "train_sentences.json")
    for name in ("dev.json", "test.json"):
        rows = (source / name).read_text().splitlines()[:held_out]
        (folder / name).write_text("\n".join(rows))
    return folder
