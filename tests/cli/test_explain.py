"""`lxmert-fast explain`: the page and the pictures, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import QUESTION, write_model, write_world
from typer.testing import CliRunner, Result

from lxmert_fast.cli import app
from lxmert_fast.errors import InputError

IMAGE = "image-0001"
ATTACK = "</script><img src=x onerror=alert(1)><!-- w1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_world(tmp_path_factory.mktemp("world"))


def explain(world: dict[str, Path], out: Path, *more: object, **changes: object) -> Result:
    """Runs the command; what is not an exit is raised."""
    given = {
        "model": world["model"],
        "question": QUESTION,
        "image": IMAGE,
        "regions": world["regions"],
    } | changes
    words = [given["model"], given["question"], "--image", given["image"], "--regions", given["regions"]]
    result = CliRunner().invoke(app, ["explain", *map(str, [*words, "--out", out, *more])])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def content(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="explanation">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def test_everything_is_written(world: dict[str, Path], tmp_path: Path):
    out = tmp_path / "new" / "out"
    result = explain(world, out, "--picture", world["pictures"], "--pretrained", world["pretrained"])
    assert result.exit_code == 0, result.output
    names = {"explanation.html", "words_to_boxes.png", "boxes_to_words.png", "attention.png"}
    assert {path.name for path in out.iterdir()} == names
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            low, high = picture.convert("L").getextrema()
            assert high - low > 100
    found = content((out / "explanation.html").read_text())
    assert np.array(found["wordsToBoxes"]).shape == (2, 4, 6, 7)
    assert np.array(found["boxesToWords"]).shape == (2, 4, 7, 6)
    assert [len(guess) for guess in found["guesses"]] == [0, 5, 5, 5, 5, 0]
    assert len(found["answers"]) == 5
    assert found["answers"][0][0] in result.output
    assert found["picture"].startswith("data:image/jpeg;base64,")


def test_without_picture_and_language_head(world: dict[str, Path], tmp_path: Path):
    explain(world, tmp_path)
    found = content((tmp_path / "explanation.html").read_text())
    assert found["picture"] is None
    assert found["guesses"] is None
    assert not (tmp_path / "attention.png").exists()


def test_the_page_needs_nothing_else(world: dict[str, Path], tmp_path: Path):
    explain(world, tmp_path, "--picture", world["pictures"])
    page = (tmp_path / "explanation.html").read_text()
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=(?!\"data:)", page)
    assert str(world["model"].parent) not in page


def test_a_question_is_text_whatever_it_says(world: dict[str, Path], tmp_path: Path):
    explain(world, tmp_path, question=ATTACK)
    page = (tmp_path / "explanation.html").read_text()
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert content(page)["question"] == ATTACK


def test_a_model_without_cross_layers_is_refused(world: dict[str, Path], tmp_path: Path):
    model = write_model(tmp_path / "flat", x_layers=0)
    with pytest.raises(InputError, match="without cross-modality layers"):
        explain(world, tmp_path / "out", model=model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "nowhere"}, "'nowhere'"),
        ({"question": " "}, "the question is empty"),
        ({"model": "nowhere"}, "nowhere: no vocab.txt in it"),
        ({"regions": "none.h5"}, "none.h5"),
    ],
)
def test_what_is_refused(world: dict[str, Path], tmp_path: Path, changes: dict, words: str):
    with pytest.raises(InputError, match=re.escape(words)):
        explain(world, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_refused(world: dict[str, Path], tmp_path: Path):
    (tmp_path / "text.png").write_text("words")
    Image.new("RGB", (10, 300)).save(tmp_path / "tall.png")
    for picture, words in {
        tmp_path / "text.png": "not a picture",
        tmp_path / "tall.png": "wanted the same shape",
        tmp_path: "no picture of image",
        tmp_path / "none": "no such picture or folder",
    }.items():
        with pytest.raises(InputError, match=words):
            explain(world, tmp_path / "out", "--picture", picture)


def test_an_output_that_cannot_be_written_is_named(world: dict[str, Path], tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be written"):
        explain(world, tmp_path / "file")


@pytest.mark.parametrize("top", ["0", "-1", "nan"])
def test_numbers_of_answers(world: dict[str, Path], tmp_path: Path, top: str):
    assert explain(world, tmp_path, "--top", top).exit_code == 2
