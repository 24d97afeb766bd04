"""The whole job on a small data set of one's own, cut from easy-vqa: `make demo DATA=DIR` in miniature."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import call
from PIL import Image

from lxmert_fast.answering import Answerer
from lxmert_fast.data import easyvqa
from lxmert_fast.data.vqa import VqaDataset, VqaFolder
from lxmert_fast.errors import InputError
from lxmert_fast.train.demo import _finetune_settings, _pretrain_settings, run_demo
from lxmert_fast.train.evaluate import evaluate_files
from lxmert_fast.train.metrics import read_metrics
from lxmert_fast.train.predict import predict_files

PICTURES = {"train": 40, "test": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Forty training and eight test pictures with all their questions."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("small")
    pictures = easyvqa.export(whole)
    (folder / "images").mkdir()
    for split, count in PICTURES.items():
        kept = {f"{split}_{number}" for number in range(count)}
        questions = json.loads((whole / f"{split}.json").read_text())
        questions = [question for question in questions if question["img_id"] in kept]
        (folder / f"{split}.json").write_text(json.dumps(questions))
        for image in kept:
            shutil.copy(pictures[image], folder / "images" / f"{image}.png")
    return folder


@pytest.fixture(scope="module")
def output(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    run_demo(out, data)
    return out


def test_summary_has_every_figure(output):
    summary = json.loads((output / "summary.json").read_text())
    accuracies = {
        "test_accuracy", "accuracy_without_pretraining", "question_only_accuracy", "majority_accuracy",
    }  # fmt: skip
    assert set(summary) == accuracies | {"losses", "seconds"}
    assert all(0 <= summary[name] <= 1 for name in accuracies)
    assert set(summary["losses"]) == {"total", "mask_lm", "matched", "obj", "attr", "feat", "qa"}
    assert all(set(value) == {"first", "last"} for value in summary["losses"].values())
    assert set(summary["seconds"]) == {
        "regions", "pre-training", "fine-tuning", "without pre-training", "question only", "test", "pictures",
        "three fine-tunings, two at a time",
    }  # fmt: skip


def test_predictions_answer_every_test_question_in_order(output, data):
    questions = json.loads((data / "test.json").read_text())
    predictions = json.loads((output / "predictions.json").read_text())
    assert [row["question_id"] for row in predictions] == [row["question_id"] for row in questions]
    answers = json.loads((output / "data" / "label2ans.json").read_text())
    assert {row["answer"] for row in predictions} <= set(answers)


def test_scores_are_those_of_the_predictions(output, data):
    labels = {row["question_id"]: row["label"] for row in json.loads((data / "test.json").read_text())}
    predictions = json.loads((output / "predictions.json").read_text())
    right = sum(labels[row["question_id"]].get(row["answer"], 0.0) for row in predictions)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["test_accuracy"] == pytest.approx(right / len(predictions))


@pytest.mark.parametrize("name", ["losses.png", "attention.png"])
def test_pictures_are_pictures(output, name):
    with Image.open(output / name) as picture:
        assert min(picture.size) > 200
        low, high = picture.convert("L").getextrema()
        assert high - low > 100


def test_metrics_hold_every_task(output):
    lines = read_metrics(output / "pretrained" / "metrics.jsonl")
    assert {"mask_lm", "matched", "obj", "attr", "feat", "qa"} <= set(lines[0]["losses"])


def test_an_answerer_agrees_with_the_predictions(output, data):
    answerer = Answerer.from_pretrained(output / "finetuned/best", data / "regions.h5")
    predictions = json.loads((output / "predictions.json").read_text())
    for question, row in list(zip(json.loads((data / "test.json").read_text()), predictions, strict=True))[
        :5
    ]:
        assert answerer(question["sent"], question["img_id"])[0].text == row["answer"]


def test_a_second_run_trains_nothing_again(output, data):
    before = json.loads((output / "summary.json").read_text())
    after = run_demo(output, data)
    for key in ("test_accuracy", "accuracy_without_pretraining", "losses"):
        assert after[key] == before[key]


def test_the_commands_evaluate_and_predict(output, data, tmp_path):
    files = [output / "finetuned/best", data / "test.json"]
    regions = ["--regions", data / "regions.h5", "--device", "cpu"]
    scored = call("evaluate", *files, *regions)
    accuracy = json.loads((output / "summary.json").read_text())["test_accuracy"]
    assert f"{100 * accuracy:.2f}" in scored.stdout
    assert call("predict", *files, tmp_path / "a.json", *regions).returncode == 0
    assert (tmp_path / "a.json").read_bytes() == (output / "predictions.json").read_bytes()


def test_a_question_only_model_is_scored_without_regions(output, data, monkeypatch):
    read = []
    whole = VqaDataset._regions
    monkeypatch.setattr(
        VqaDataset, "_regions", lambda self, images: read.append(images) or whole(self, images)
    )
    words = ["evaluate", output / "blind/best", data / "test.json", "--regions", data / "regions.h5"]
    words += ["--device", "cpu", "--workers", 0]
    accuracy = json.loads((output / "summary.json").read_text())["question_only_accuracy"]
    assert f"{100 * accuracy:.2f}" in call(*words, "--blind").stdout
    assert not read
    assert call(*words).returncode == 0
    assert read


def test_unlabelled_questions_are_answered_but_not_scored(output, data, tmp_path):
    questions = json.loads((data / "test.json").read_text())
    for question in questions:
        del question["label"]
    (tmp_path / "q.json").write_text(json.dumps(questions))
    model, regions = output / "finetuned/best", [data / "regions.h5"]
    assert predict_files(model, tmp_path / "q.json", tmp_path / "a.json", regions) == len(questions)
    with pytest.raises(InputError, match="no labels"):
        evaluate_files(model, tmp_path / "q.json", regions)


def test_an_image_without_regions_is_named(output, data, tmp_path):
    question = {"question_id": 1, "img_id": "nowhere", "sent": "what is it?"}
    (tmp_path / "q.json").write_text(json.dumps([question]))
    with pytest.raises(InputError, match="'nowhere'"):
        predict_files(
            output / "finetuned/best", tmp_path / "q.json", tmp_path / "a.json", [data / "regions.h5"]
        )


def test_a_folder_that_is_no_model_is_named(data, tmp_path):
    with pytest.raises(InputError, match=r"no vocab\.txt in it"):
        evaluate_files(tmp_path, data / "test.json", [data / "regions.h5"])


@pytest.mark.parametrize(
    "name",
    [
        "odd, [x]/2024",
        "2024",
        "null",
        "a: b # c",
        "{é}",
        'it\'s "q"',
        "😀",
        "back\\slash",
        "two\nlines",
        " end ",
    ],
)
def test_folders_of_any_name_reach_the_settings(name):
    """Overrides are YAML: a path must come through as it is, whatever YAML would read into it."""
    output, folder = Path(name), VqaFolder(Path(name))
    settings = _pretrain_settings(output, folder)
    data = settings.data
    assert data.train == [output / "data" / "pretrain.json"]
    assert data.regions == [folder.path / "regions.h5"]
    assert (data.vocabulary, data.answers) == (folder.path / "vocab.txt", output / "data" / "label2ans.json")
    assert settings.run.output == output / "pretrained"

    tuned = _finetune_settings(output, folder, output, "data.blind=true")
    assert (tuned.data.folder, tuned.run.output, tuned.model.start_from) == (folder.path, output, output)
    assert tuned.data.blind
    assert _finetune_settings(output, folder, None).model.start_from is None
