"""The live page: its application as a browser and as strangers call it."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from browser import Browser
from PIL import Image
from region_files import random_image, write_images
from small_models import QUESTION, write_model
from typer.testing import CliRunner

from lxmert_fast.cli import app
from lxmert_fast.data.grid import grid_regions
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError
from lxmert_fast.looking.explainer import Explainer
from lxmert_fast.looking.gallery import MOST_FOUND, Gallery, Refused
from lxmert_fast.looking.server import LOOPBACK, MOST_UPLOADED, make_app, serve

BACKBONE = "tiny_backbones:colours_and_edges"
JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}


def png(size: tuple[int, int] = (60, 40), mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.effect_noise(size, 80).convert(mode).save(content, "PNG")
    return content.getvalue()


@contextmanager
def listening(gallery: Gallery) -> Iterator[int]:
    """The application on a port of its own, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        server = uvicorn.Server(uvicorn.Config(make_app(gallery, LOOPBACK), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        yield place.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def grid(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """A store that `features grid` made of pictures, so that others can be uploaded."""
    folder = tmp_path_factory.mktemp("grid")
    pictures = {path.stem: path for path in sorted(world["pictures"].iterdir())}
    grid_regions(
        pictures, folder / "r.h5", 2, 3, size=32, backbone=BACKBONE, objects=2, attributes=2, dtype=np.float32
    )
    model = write_model(folder / "model", visual_feat_dim=6)
    store = RegionStore(folder / "r.h5")
    return Gallery(Explainer.from_pretrained(model), store, world["pictures"], BACKBONE)


@pytest.fixture(scope="module")
def port(grid: Gallery) -> Iterator[int]:
    with listening(grid) as found:
        yield found


def ask(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None):
    """(status, headers, text) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read().decode()
    connection.close()
    return found


def explain(port: int, content: object) -> tuple[int, str]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, _, text = ask(port, "POST", "/explain", body, JSON)
    return status, text


def test_images_are_searched(port: int):
    assert json.loads(ask(port, "GET", "/images?search=")[2]) == {
        "images": ["image-0000", "image-0001"],
        "count": 2,
    }
    assert json.loads(ask(port, "GET", "/images?search=GE-0001")[2]) == {"images": ["image-0001"], "count": 1}
    assert json.loads(ask(port, "GET", "/images?search=%27%3C")[2]) == {"images": [], "count": 0}


def test_a_question_is_answered_with_a_page_that_the_browser_may_not_keep(port: int):
    status, headers, text = ask(
        port, "POST", "/explain", json.dumps({"image": "image-0000", "question": QUESTION}).encode(), JSON
    )
    assert (status, headers["cache-control"]) == (200, "no-store")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert QUESTION in text
    assert "data:image/jpeg" in text


def test_an_upload_is_answered_as_the_store_would(grid: Gallery, port: int, world: dict[str, Path]):
    """A picture of the store, uploaded: its regions are made again and come out the same."""
    status, _, text = ask(
        port, "POST", "/upload?question=w1%20w2", (world["pictures"] / "image-0001.png").read_bytes(), BYTES
    )
    assert status == 200

    def answers(page: str) -> list:
        return json.loads(page.split('id="explanation">')[1].split("</script>")[0])["answers"]

    for (text_there, there), (text_here, here) in zip(
        answers(text), answers(grid.explain("image-0001", "w1 w2")), strict=True
    ):
        assert text_there == text_here
        assert there == pytest.approx(here, abs=2e-4)  # four digits are on the page


@pytest.mark.parametrize("mode", ["RGBA", "L", "1"])
def test_uploads_of_other_modes(port: int, mode: str):
    assert ask(port, "POST", "/upload?question=w1", png(mode=mode), BYTES)[0] == 200


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "empty"),
        (b"words in a file that is called .png", 400, "not a picture"),
        (png()[:200], 400, "cannot be read as a picture"),
        (bytes(MOST_UPLOADED + 1), 413, "too large"),
    ],
    ids=["empty", "text", "truncated", "large"],
)
def test_bad_uploads_are_said_without_a_path(port: int, content: bytes, status: int, words: str):
    found, _, text = ask(port, "POST", "/upload?question=w1", content, BYTES)
    assert found == status
    assert words in json.loads(text)["error"]
    assert "/" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "wanted JSON"),
        (b'{"image": "image-0000", "ques', "wanted JSON"),
        (b"\xff\xfe", "wanted JSON"),
        ([1], "wanted JSON"),
        ({"image": "image-0000"}, "wanted JSON"),
        ({"image": True, "question": "w1"}, "must be texts"),
        ({"image": "image-0000", "question": ["w1"]}, "must be texts"),
        ({"image": "image-0000", "question": "  "}, "the question is empty"),
        ({"image": "image-0000", "question": "\udc00"}, "not UTF-8"),
        ({"image": "../../etc/passwd", "question": "w1"}, "no such image"),
        (b"[" * 10_000, "wanted JSON"),
    ],
)
def test_bad_questions_are_one_line(port: int, content: object, words: str):
    status, text = explain(port, content)
    assert status == 400
    assert words in json.loads(text)["error"]


def test_other_sites_are_kept_out(port: int):
    """A form can send no JSON, and another name for this address is not answered."""
    content = json.dumps({"image": "image-0000", "question": "w1"}).encode()
    assert ask(port, "POST", "/explain", content, {"Content-Type": "text/plain"})[0] == 400
    assert ask(port, "GET", "/", headers={"Host": "elsewhere.example"})[0] == 400
    assert ask(port, "GET", "/", headers={"Host": f"localhost:{port}"})[0] == 200
    assert ask(port, "GET", "/../../etc/passwd")[0] == 404


def test_what_is_wrong_on_the_server_stays_there(grid: Gallery, port: int, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise InputError("/secret/r.h5: damaged")

    monkeypatch.setattr(grid, "explainer", broken)
    status, text = explain(port, {"image": "image-0000", "question": "w1"})
    assert status == 500
    assert "secret" not in text
    assert "/secret/r.h5: damaged" in caplog.text


def test_a_store_of_a_detector_takes_no_uploads(world: dict[str, Path], tmp_path: Path):
    store = RegionStore(world["regions"])
    gallery = Gallery(Explainer.from_pretrained(world["model"]), store, None, BACKBONE)
    assert "not made by `features grid`" in gallery.no_uploads
    with pytest.raises(Refused, match="cannot be uploaded"):
        gallery.explain_upload(png(), "w1")
    assert '"picture":null' in gallery.explain("image-0000", "w1")


def test_the_backbone_in_a_file_is_not_imported(grid: Gallery):
    other = Gallery(grid.explainer, grid.store, None, "efficientnet-lite0")
    assert f"made with backbone {BACKBONE}" in other.no_uploads


def test_only_the_first_of_many_images_are_listed(world: dict[str, Path], tmp_path: Path):
    many = write_images(tmp_path / "many.h5", [random_image(seed, 2) for seed in range(MOST_FOUND + 3)])
    found, count = Gallery(Explainer.from_pretrained(world["model"]), RegionStore(many), None, "").search(
        "image"
    )
    assert (len(found), count) == (MOST_FOUND, MOST_FOUND + 3)


def test_a_port_in_use_is_named(grid: Gallery, port: int):
    with pytest.raises(InputError, match=f"127.0.0.1:{port}: cannot be listened on"):
        serve(grid, "127.0.0.1", port, print)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--serve"], "wants --model FOLDER and --regions FILE"),
        (["--model", "x"], "want --serve"),
        (["--serve", "--model", "nowhere", "--regions", "r.h5"], "nowhere"),
    ],
)
def test_the_command_wants_what_it_needs(arguments: list[str], words: str):
    result = CliRunner().invoke(app, ["demo", *arguments])
    assert isinstance(result.exception, InputError)
    assert words in str(result.exception)


def test_the_command_serves_on_this_machine_alone(world: dict[str, Path], monkeypatch):
    seen: list = []
    monkeypatch.setattr("lxmert_fast.looking.server.serve", lambda *given: seen.append(given))
    words = ["demo", "--serve", "--model", world["model"], "--regions", world["regions"], "--device", "cpu"]
    result = CliRunner().invoke(app, [*map(str, words), "--images", str(world["pictures"])])
    assert result.exit_code == 0, result.output
    (gallery, host, number, _) = seen[0]
    assert (host, number, len(gallery.store)) == ("127.0.0.1", 7860, 2)


@pytest.fixture(scope="module")
def page(browser: Browser, port: int) -> Browser:
    browser.requests(), browser.complaints()
    browser.driver.get(f"http://127.0.0.1:{port}/")
    browser.until("document.querySelectorAll('#image option').length === 2")
    return browser


def test_an_image_is_found_asked_about_and_looked_into(page: Browser, port: int):
    page.set("#search", "0001")
    page.until("document.querySelector('#image').length === 1")
    page.run("document.querySelector('#question').value = arguments[0]", "w3 <img src=x> w4")
    page.run("document.querySelector('#ask').click()")
    page.until("document.querySelector('#told').textContent.startsWith('Answered')")
    page.driver.switch_to.frame("answer")
    try:
        page.until("document.querySelectorAll('#picture .box').length === 6")
        assert page.run("return document.querySelector('h1').textContent") == "w3 <img src=x> w4"
        page.run("document.querySelector(\"[data-word='1']\").focus()")
        page.until("document.querySelector('#picture').classList.contains('lit')")
    finally:
        page.driver.switch_to.default_content()
    assert page.complaints() == []


def test_a_picture_is_uploaded_and_a_text_refused(page: Browser, tmp_path: Path):
    from selenium.webdriver.common.by import By

    (tmp_path / "text.png").write_text("words")
    (tmp_path / "real.png").write_bytes(png())
    page.run("document.querySelector('#question').value = 'w1'")
    for name, words in (("text.png", "not a picture"), ("real.png", "Answered")):
        page.driver.find_element(By.ID, "upload").send_keys(str(tmp_path / name))
        page.run("document.querySelector('#told').textContent = ''; document.querySelector('#ask').click()")
        page.until(f"document.querySelector('#told').textContent.includes('{words}')")
    # the refusal's status is itself a line of the console
    assert [line for line in page.complaints() if "400 (Bad Request)" not in line] == []


def test_nothing_was_asked_of_another_host(page: Browser, port: int):
    asked = page.requests()
    assert len(asked) >= 4
    assert [address for address in asked if not address.startswith(f"http://127.0.0.1:{port}/")] == []
