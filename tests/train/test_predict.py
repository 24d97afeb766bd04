"""Predictions: the file's bytes in both formats, after a kill those of an unbroken run; and `evaluate`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import make_batch, make_config, scatter
from small_data import known_store, small_encoder, write_json
from typer.testing import CliRunner

from lxmert_fast.answering import save_model_folder
from lxmert_fast.cli import app
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForQuestionAnswering
from lxmert_fast.train import predict
from lxmert_fast.train.evaluate import evaluate_files
from lxmert_fast.train.predict import AnswerLog, predict_files

ANSWERS = ["yes", "no", "é\n", "2"]


class World:
    """A tiny model, 90 questions about nine images, not in their order; labels are what it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.regions = list(known_store(folder, [1, 2, 3] * 3).paths)
        sizes = {"vocab_size": 100, "visual_feat_dim": 4, "num_qa_labels": 4, "max_position_embeddings": 20}
        model: Any = scatter(LxmertForQuestionAnswering(make_config(**sizes)))
        with torch.no_grad():  # or one answer would be the best to every question
            scores = model.eval()(**make_batch(model.config, pairs=20)).question_answering_score
            model.answer_head.logit_fc[3].bias -= scores.mean(0)
        self.model = folder / "model"
        save_model_folder(model, small_encoder(folder), ANSWERS, self.model)
        rng = np.random.default_rng(0)
        self.rows: list[dict[str, Any]] = [
            {
                "question_id": 1000 + number,
                "img_id": f"i{rng.integers(9)}",
                "sent": " ".join(f"w{word}" for word in rng.integers(95, size=rng.integers(2, 9))),
            }
            for number in range(90)
        ]
        self.questions = write_json(folder / "q.json", self.rows)

    def predict(self, out: Path, **options: Any) -> list[dict[str, Any]]:
        options = {"batch_size": 16, "device": "cpu", "workers": 0} | options
        assert predict_files(self.model, self.questions, out, self.regions, **options) == len(self.rows)
        return json.loads(out.read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("predict"))


@pytest.fixture(scope="module")
def unbroken(world: World) -> Path:
    world.predict(world.folder / "unbroken.json")
    return world.folder / "unbroken.json"


def test_answers_are_in_the_questions_order_and_the_originals_bytes(world: World, unbroken: Path) -> None:
    rows = json.loads(unbroken.read_text())
    assert [row["question_id"] for row in rows] == [row["question_id"] for row in world.rows]
    assert len({row["answer"] for row in rows}) > 1
    assert unbroken.read_text() == json.dumps(rows, indent=4, sort_keys=True)
    assert not [file for file in world.folder.iterdir() if file.name.startswith(".")]


def test_answers_do_not_depend_on_the_batches(world: World, unbroken: Path) -> None:
    """Other batches, the same answers."""
    rows = json.loads(unbroken.read_text())
    assert world.predict(world.folder / "alone.json", batch_size=7) == rows


def test_an_image_is_read_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = predict.RegionStore.read
    monkeypatch.setattr(
        predict.RegionStore, "read", lambda self, rows: read.extend(rows) or whole(self, rows)
    )
    world.predict(world.folder / "once.json")
    # in the order of the images, and again only where a batch of 16 ends within one
    assert read == sorted(read)
    assert len(read) <= 9 + 5


def test_gqa_has_its_own_keys_and_ids(world: World, tmp_path: Path, unbroken: Path) -> None:
    rows = [row | {"question_id": f"0{row['question_id']}"} for row in world.rows]
    options: dict[str, Any] = {"device": "cpu", "workers": 0, "batch_size": 16}
    files = world.model, write_json(tmp_path / "q.json", rows), tmp_path / "p.json", world.regions
    predict_files(*files, form="gqa", **options)
    found = json.loads((tmp_path / "p.json").read_text())
    assert [row["questionId"] for row in found] == [row["question_id"] for row in rows]
    assert [row["prediction"] for row in found] == [row["answer"] for row in json.loads(unbroken.read_text())]
    with pytest.raises(InputError, match=r"q\.json: question 1000: a number, wanted a string"):
        predict_files(world.model, world.questions, tmp_path / "x.json", world.regions, form="gqa", **options)


def _killed_in_the_fourth_batch(world: World, out: Path) -> None:
    torch.set_num_threads(1)
    append, log = AnswerLog._append, []

    def kill(self: AnswerLog, content: bytes) -> None:
        log.append(content)
        append(self, content if len(log) < 5 else content[:9])
        if len(log) == 5:  # the first is the head
            os.kill(os.getpid(), signal.SIGKILL)

    AnswerLog._append = kill  # type: ignore[method-assign]
    world.predict(out)


@pytest.mark.parametrize("workers", [0, 1])
def test_after_a_kill_the_bytes_are_the_same(
    world: World, unbroken: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while the fourth of six batches is written: three are not computed again."""
    out = tmp_path / "out.json"
    process = multiprocessing.get_context("fork").Process(
        target=_killed_in_the_fourth_batch, args=(world, out)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == [".out.json.answers"]
    computed: list[bytes] = []
    append = AnswerLog._append
    monkeypatch.setattr(
        AnswerLog, "_append", lambda self, content: computed.append(content) or append(self, content)
    )
    world.predict(out, workers=workers)
    assert len(computed) == 3
    assert out.read_bytes() == unbroken.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize("change", ["model", "questions", "batch size"])
def test_answers_of_another_run_are_not_taken(
    world: World, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints: list[str] = []

    class Stopped(Exception):
        pass

    def stop(path: Path, fingerprint: str, *_: object) -> None:
        fingerprints.append(fingerprint)
        raise Stopped

    monkeypatch.setattr(predict, "AnswerLog", stop)
    model = tmp_path / "model"
    model.mkdir()
    for file in world.model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    questions = write_json(tmp_path / "q.json", world.rows)

    def run(batch_size: int = 16) -> None:
        with pytest.raises(Stopped):
            predict_files(
                model, questions, tmp_path / "o.json", world.regions, device="cpu", batch_size=batch_size
            )

    run()
    run()
    if change == "model":
        names = json.loads((model / "label2ans.json").read_text())
        write_json(model / "label2ans.json", names[::-1])
    if change == "questions":
        write_json(questions, [*world.rows[:-1], world.rows[-1] | {"sent": "w1"}])
    run(17 if change == "batch size" else 16)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_log_takes_whole_batches_of_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "log"
    batches = [np.arange(4), np.arange(4) + 4, np.array([8, 9])]
    log = AnswerLog(path, "mine", 10, 4)
    for batch in batches:
        log.append(batch)
    assert log.answers == 10
    np.testing.assert_array_equal(log.read(), np.arange(10))
    with pytest.raises(InputError, match="another process is writing"):
        AnswerLog(path, "mine", 10, 4)
    log.close()
    whole = path.read_bytes()
    record = 4 * 4 + 4
    for size, content in (
        (2, whole[: -1 - 3]),  # a record cut short
        (1, whole[: len("mine\n") + record] + bytes(record + 8)),  # zeros after a power failure
        (0, whole[:3]),
        (3, whole + b"more"),
        (0, b"yours" + whole[4:]),
    ):
        path.write_bytes(content)
        again = AnswerLog(path, "mine", 10, 4)
        assert again.batches == size
        for batch in batches[size:]:
            again.append(batch)
        np.testing.assert_array_equal(again.read(), np.arange(10))
        again.close()
        assert path.read_bytes() == whole


def labelled(world: World, unbroken: Path, **change: Any) -> list[dict[str, Any]]:
    """Questions whose label is the model's own answer with score 0.6, the first one's as said."""
    answers = [row["answer"] for row in json.loads(unbroken.read_text())]
    rows = [row | {"label": {answer: 0.6}} for row, answer in zip(world.rows, answers, strict=True)]
    rows[0] |= change
    return rows


def test_evaluate_says_what_it_could_not_answer(world: World, unbroken: Path, tmp_path: Path) -> None:
    rows = labelled(world, unbroken, label={"unheard of": 1.0})
    files = [world.model, write_json(tmp_path / "q.json", rows), "--regions", world.regions[0]]
    options = [
        "--device",
        "cpu",
        "--workers",
        "0",
        "--batch-size",
        "16",
        "--predictions",
        tmp_path / "p.json",
    ]
    result = CliRunner().invoke(app, ["evaluate", *map(str, [*files, *options])])
    assert result.exit_code == 0, result.exception
    assert f"{100 * 0.6 * 89 / 90:.2f}" in result.output
    assert "1 answers of the labels are not among the model's" in result.output.replace("\n", " ")
    assert (tmp_path / "p.json").read_bytes() == unbroken.read_bytes()


def test_evaluate_wants_labels_before_it_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LxmertForQuestionAnswering, "forward", None)
    with pytest.raises(InputError, match=r"q\.json: its questions have no labels"):
        evaluate_files(world.model, world.questions, world.regions, device="cpu")


def test_an_image_without_regions_is_found_before_anything_is_written(world: World, tmp_path: Path) -> None:
    rows = [*world.rows, {"question_id": 5, "img_id": "nowhere", "sent": "w1"}]
    files = world.model, write_json(tmp_path / "q.json", rows), tmp_path / "below/o.json", world.regions
    with pytest.raises(InputError, match="question 5: image 'nowhere' is not in"):
        predict_files(*files, device="cpu")
    assert not (tmp_path / "below").exists()
