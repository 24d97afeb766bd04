"""The page in a browser: pointing, moving by keyboard and choosing light what the numbers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from small_models import QUESTION

from lxmert_fast.data.regions import RegionStore
from lxmert_fast.looking.explainer import Explainer, Explanation
from lxmert_fast.looking.page import explanation_page
from lxmert_fast.looking.pictures import open_picture

IMAGE = "image-0001"
ATTACK = "w1 </script><img src=x onerror=\"document.body.dataset.hit='yes'\">"
#: A colour's opacity is kept in eight bits.
STEP = 1 / 255


@pytest.fixture(scope="module")
def found(world: dict[str, Path]) -> Explanation:
    explainer = Explainer.from_pretrained(world["model"], world["pretrained"])
    return explainer(QUESTION, IMAGE, RegionStore(world["regions"]))


@pytest.fixture(scope="module")
def page(browser: Browser, world: dict[str, Path], found: Explanation, tmp_path_factory) -> Browser:
    picture = open_picture(world["pictures"] / f"{IMAGE}.png", "x")
    path = tmp_path_factory.mktemp("page") / "explanation.html"
    path.write_text(explanation_page(found, picture), encoding="utf-8")
    browser.requests(), browser.complaints()
    browser.driver.get(path.as_uri())
    return browser


def lit_boxes(page: Browser) -> np.ndarray:
    """Opacity of each box's outline over that of the brightest."""
    found = page.run(
        "return [...document.querySelectorAll('.box')].sort((a, b) => a.dataset.box - b.dataset.box)"
        ".map(box => Number(box.style.strokeOpacity))"
    )
    return np.array(found) / max(found)


def lit_words(page: Browser) -> np.ndarray:
    found = page.run(
        "return [...document.querySelectorAll('#words button')].map(word =>"
        " Number((getComputedStyle(word).backgroundColor.match(/, ([0-9.]+)\\)$/) || [0, 1])[1]))"
    )
    return np.array(found) / max(found)


def choose(page: Browser, direction: str, layer: int, head: int) -> None:
    page.set(f"input[value={direction}]", "")
    page.set("#layer", str(layer))
    page.set("#head", str(head))


def test_it_asks_for_nothing_and_complains_of_nothing(page: Browser):
    assert [address for address in page.requests() if not address.startswith("file:")] == []
    assert page.complaints() == []
    assert page.run("return document.title") == QUESTION


@pytest.mark.parametrize(("layer", "head"), [(2, 0), (1, 3)])
def test_pointing_at_a_word_lights_its_boxes(page: Browser, found: Explanation, layer: int, head: int):
    for direction in ("wordsToBoxes", "boxesToWords"):
        choose(page, direction, layer, head)
        page.point_at("[data-word='2']")
        both = {"wordsToBoxes": found.words_to_boxes, "boxesToWords": found.boxes_to_words.swapaxes(2, 3)}
        weights = both[direction][layer - 1]
        wanted = (weights[head - 1] if head else weights.mean(0))[2]
        np.testing.assert_allclose(lit_boxes(page), wanted / wanted.max(), atol=5e-4 / wanted.max())
        told = page.run("return document.querySelector('#told').textContent")
        assert told.startswith("“w2” " + ("reads" if direction == "wordsToBoxes" else "is read by"))
        assert f"box {wanted.argmax() + 1} {100 * wanted.max():.1f}\u00a0%" in told


def test_pointing_at_a_box_lights_its_words(page: Browser, found: Explanation):
    choose(page, "boxesToWords", 2, 1)
    page.point_at("[data-box='4']")
    wanted = found.boxes_to_words[1, 0, 4]
    np.testing.assert_allclose(lit_words(page), wanted / wanted.max(), atol=2 * STEP / 0.75)


def test_keyboard_and_tap(page: Browser, found: Explanation):
    choose(page, "wordsToBoxes", 2, 0)
    wanted = found.words_to_boxes[1].mean(0)[:, 4]
    page.run("document.querySelector(\"[data-box='4']\").focus()")
    np.testing.assert_allclose(lit_words(page), wanted / wanted.max(), atol=2 * STEP / 0.75)
    page.run("document.querySelector(\"[data-word='3']\").click(); document.activeElement.blur()")
    page.point_at("h1")
    assert (
        page.run("return document.querySelector(\"[data-word='3']\").getAttribute('aria-pressed')") == "true"
    )
    wanted = found.words_to_boxes[1].mean(0)[3]
    np.testing.assert_allclose(lit_boxes(page), wanted / wanted.max(), atol=5e-4 / wanted.max())


def test_answers_guesses_and_numbers_are_tables(page: Browser, found: Explanation):
    answers = page.run(
        "return [...document.querySelectorAll('#answers tbody th')].map(row => row.textContent)"
    )
    assert answers == [answer.text for answer in found.answers]
    hidden = page.run(
        "return [...document.querySelectorAll('#guesses tbody th')].map(row => row.textContent)"
    )
    assert hidden == found.words[1:-1]
    page.run("document.querySelector('#numbers').open = true")
    page.until("document.querySelectorAll('#numbers tbody tr').length === 6")


def test_a_phone_need_not_scroll_sideways(page: Browser):
    page.driver.set_window_size(500, 800)
    try:
        width, room = page.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= room
    finally:
        page.driver.set_window_size(1200, 900)


def test_a_question_that_is_html_does_nothing(browser: Browser, world: dict[str, Path], tmp_path: Path):
    found = Explainer.from_pretrained(world["model"])(ATTACK, "image-0000", RegionStore(world["regions"]))
    (tmp_path / "attack.html").write_text(explanation_page(found), encoding="utf-8")
    browser.driver.get((tmp_path / "attack.html").as_uri())
    assert browser.run("return document.querySelector('h1').textContent") == ATTACK
    assert browser.run("return [document.body.dataset.hit, document.images.length]") == [None, 0]
    assert "no words" in browser.run("return document.querySelector('#guesses').textContent")
    assert browser.complaints() == []
