"""The command: help for strangers, one line and exit code 2 for mistakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from cases import make_config
from commands import call
from small_data import aggregated, known_store, small_encoder, write_json

from lxmert_fast.answering import save_model_folder
from lxmert_fast.models import LxmertForQuestionAnswering

COMMAND = Path(sys.executable).with_name("lxmert-fast")


def call_alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own, which reads its environment anew."""
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that ended with exit code 2."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("lxmert-fast: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("pretrain",),
        ("finetune",),
        ("evaluate",),
        ("predict",),
        ("demo",),
        ("explain",),
        ("report",),
        ("verify",),
        ("features", "convert"),
        ("features", "check"),
        ("features", "grid"),
        ("data", "easyvqa"),
        ("checkpoint", "convert"),
        ("checkpoint", "weights"),
        ("score", "vqa"),
        ("score", "gqa"),
        ("score", "labels"),
        ("launch",),
        ("plan",),
        ("ablation",),
        ("doctor",),
        ("bench", "counts"),
        ("bench", "traffic"),
        ("bench", "report"),
        ("bench", "compare"),
        ("bench", "aot"),
    ],
    ids="-".join,
)
def test_every_command_explains_itself(command):
    done = call_alone(*command, "--help")
    assert done.returncode == 0
    assert "Usage: lxmert-fast" in done.stdout
    assert len(done.stdout.split("\n\n")[1].strip()) > 20


CASES = {
    "missing configuration": (("pretrain", "none.yaml"), "none.yaml: no such configuration file"),
    "unknown key": (("pretrain", "{config}", "run.sed=1"), "run.sed: unknown key"),
    "settings of another task": (("pretrain", "{config}", "task=vqa"), "task: "),
    "missing model": (("evaluate", "nowhere", "q.json", "--regions", "r.h5"), "nowhere"),
    "missing checkpoint": (("checkpoint", "convert", "nowhere.pth", "out"), "nowhere.pth"),
    "missing tsv": (("features", "convert", "none.tsv", "out.h5"), "none.tsv"),
    "missing folder": (("demo", "--data", "nowhere"), "nowhere"),
}


@pytest.mark.parametrize(("arguments", "words"), CASES.values(), ids=CASES)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text("data: {train: [t.json], regions: [r.h5], vocabulary: v.txt}\nrun: {output: out}\n")
    assert words in refusal(call(*(argument.format(config=config) for argument in arguments)))


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A file where a command is told to write."""
    path = tmp_path / "taken"
    path.write_text("keep me")
    return path


@pytest.mark.parametrize("place", ["taken/out.json", "taken/below/out.json", "folder"])
def test_predictions_that_cannot_be_written_are_one_line(tmp_path: Path, taken: Path, place: str):
    """Below a file, or in the place of a folder: the line names what the user wrote, no scratch file."""
    store, text = known_store(tmp_path, [2]), small_encoder(tmp_path)
    sizes = {"vocab_size": 100, "visual_feat_dim": 4, "num_qa_labels": 2, "max_position_embeddings": 20}
    model = LxmertForQuestionAnswering(make_config(**sizes))
    save_model_folder(model, text, ["yes", "no"], tmp_path / "model")
    question = {"question_id": 1, "img_id": "i0", "sent": "w1 w2"}
    questions = write_json(tmp_path / "q.json", [question])
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))

    files = [tmp_path / "model", questions, tmp_path / place, "--regions", *store.paths]
    line = refusal(call("predict", *files, "--device", "cpu"))
    assert line.startswith(f"lxmert-fast: {tmp_path / place.split('/')[0]}")
    assert ".out" not in line
    assert taken.read_text() == "keep me"
    assert sorted(tmp_path.rglob("*")) == before


def small_pretraining(folder: Path, **run: object) -> Path:
    """A configuration of three images in regions.h5."""
    settings = {
        "model": {
            "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16,
            "l_layers": 1, "r_layers": 1, "x_layers": 1, "max_position_embeddings": 20,
        },
        "data": {
            "train": [str(write_json(folder / "train.json", aggregated(3, 1, 1)))],
            "regions": [str(path) for path in known_store(folder, [2, 2, 2]).paths],
            "vocabulary": str(small_encoder(folder).vocabulary),
        },
        "optimisation": {"batch_size": 3, "epochs": 1},
        "run": {"device": "cpu"} | run,
    }  # fmt: skip
    return write_json(folder / "config.yaml", settings)


def test_a_run_that_cannot_write_its_folder_is_one_line(tmp_path: Path, taken: Path):
    """`run.output` is a file."""
    line = refusal(call("pretrain", small_pretraining(tmp_path, output=str(taken), workers=0)))
    assert line.startswith(f"lxmert-fast: {taken}")
    assert "ot a directory" in line
    assert taken.read_text() == "keep me"


def test_damaged_regions_are_one_line_also_out_of_a_worker(tmp_path: Path):
    config = small_pretraining(tmp_path, output=str(tmp_path / "out"), workers=1)
    with h5py.File(tmp_path / "regions.h5", "r+") as opened:
        opened["object_ids"][3] = 10**6
    line = refusal(call("pretrain", config))
    place = f"lxmert-fast: {tmp_path / 'regions.h5'}: row 2, image 'i1': damaged bytes: found checksum "
    assert line.startswith(place)
    assert line.endswith("; `lxmert-fast features check` names all such images")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LXMERT_FAST_CONFIGS", "absent.json", "No such file"),
        ("LXMERT_FAST_CONFIGS", "table.json", "not a table of launch settings"),
        ("LXMERT_FAST_KERNELS", "fast", "wanted one of auto, operator, apex, reference"),
    ],
)
def test_an_environment_variable_that_is_wrong_is_one_line(
    variable: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "table.json").write_text('{"80": 3}', encoding="utf-8")
    monkeypatch.setenv(variable, str(tmp_path / value) if value.endswith("json") else value)
    line = refusal(call_alone("bench", "counts", "--tiny", "--pairs", 8))
    assert variable in line
    assert words in line


@pytest.mark.parametrize(("before", "after"), [(None, "64"), ("7", "7")])
def test_onednn_keeps_few_products_unless_somebody_says_otherwise(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, before or "")
    if before is None:
        monkeypatch.delenv(name)
    call("doctor", "--help")
    assert os.environ[name] == after
