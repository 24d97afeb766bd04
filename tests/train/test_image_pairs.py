"""NLVR2 from files to predictions: training, its checkpoints and folders, and what starts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import make_config
from checkpoint_files import original
from kills import killed_at
from small_data import small_encoder, write_json
from small_pairs import official_lines, pair_entries, regions_of
from thread_ranks import together
from typer.testing import CliRunner

from lxmert_fast import cli
from lxmert_fast.answering import is_pair_folder, open_pair_folder
from lxmert_fast.checkpoint import from_airsplay
from lxmert_fast.commands.checkpoint import app as checkpoint_app
from lxmert_fast.data.official.nlvr2 import convert
from lxmert_fast.data.text import learn_vocabulary
from lxmert_fast.errors import InputError
from lxmert_fast.metrics.nlvr import score
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining
from lxmert_fast.train.evaluate_pairs import judge_pairs
from lxmert_fast.train.finetuning import finetune
from lxmert_fast.train.image_pairs import PairTask
from lxmert_fast.train.settings import (
    IMAGES_PER_FILE,
    FinetuneSettings,
    Nlvr2Data,
    check_settings,
    load_settings,
)

SIZES = {
    "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128,
    "l_layers": 1, "r_layers": 1, "x_layers": 2,
}  # fmt: skip
FITTING = {"vocab_size": 100, "visual_feat_dim": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training examples, 16 held out."""
    path = tmp_path_factory.mktemp("pairs")
    train, valid = pair_entries(6), pair_entries(2, "dev", seed=1)
    regions_of(path / "regions.h5", train + valid)
    write_json(path / "train.json", train)
    write_json(path / "valid.json", valid)
    small_encoder(path)
    return path


def settings(folder: Path, output: Path, **changes: Any) -> FinetuneSettings:
    """Two epochs of six updates."""
    tree = {
        "task": "nlvr2",
        "model": SIZES | changes.pop("model", {}),
        "data": {
            "train": str(folder / "train.json"),
            "valid": str(folder / "valid.json"),
            "regions": str(folder / "regions.h5"),
            "vocabulary": str(folder / "vocab.txt"),
        }
        | changes.pop("data", {}),
        "optimisation": {"batch_size": 8, "epochs": 2, "lr": 1e-3, "clip": 5.0}
        | changes.pop("optimisation", {}),
        "run": {"output": str(output), "workers": 0, "log_every": 2, "device": "cpu", "checkpoint_every": 4},
    }
    return check_settings(FinetuneSettings, tree, "test")


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of texts of 30 tokens, pairs of a sentence together."""
    output = tmp_path_factory.mktemp("run") / "out"
    lines: list[str] = []
    data = {"max_length": 30, "pairs_per_sentence": 4}
    summary = finetune(settings(folder, output, data=data), report=lines.append)
    assert summary["updates"] == 12
    assert set(summary["best"]) >= {"accuracy", "consistency"}
    train = folder / "train.json"
    assert f"training: 48 examples of {train}, 0 left out by data.subset=full" in lines
    return output


def call(*words: Any) -> Any:
    return CliRunner().invoke(cli.app, list(map(str, words)))


def test_a_folder_answers_as_it_was_trained(run: Path, folder: Path, tmp_path: Path) -> None:
    """predict, score and evaluate agree, with texts as long as in training; the log has the last epoch."""
    model, text = open_pair_folder(run / "last")
    assert is_pair_folder(run / "last")
    assert (type(model), text.max_length) == (LxmertForImagePairs, 30)
    assert not list((run / "last").glob("*2ans*"))
    valid, store = folder / "valid.json", ("--regions", folder / "regions.h5")
    done = call("predict", run / "last", valid, tmp_path / "new" / "p.csv", *store, "--batch-size", 5)
    assert done.exit_code == 0, done.output
    entries = json.loads(valid.read_text())
    names, words = zip(
        *(x.split(",") for x in (tmp_path / "new/p.csv").read_text().splitlines()), strict=True
    )
    assert list(names) == [entry["identifier"] for entry in entries]
    assert set(words) <= {"True", "False"}
    truth = [
        {"identifier": entry["identifier"], "sentence": entry["sent"], "label": str(entry["label"] == 1)}
        for entry in entries
    ]
    scored = call("score", "nlvr2", tmp_path / "new/p.csv", official_lines(tmp_path / "truth.json", truth))
    evaluated = call("evaluate", run / "last", valid, *store)
    assert scored.stdout == evaluated.stdout != ""
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [x for x in logged if "accuracy" in json.dumps(x)][-1]
    right = [word == row["label"] for word, row in zip(words, truth, strict=True)]
    groups = [(x.split("-")[1], x.split("-")[3]) for x in names]
    wanted = score(groups, right)
    assert f"{wanted.accuracy}" in json.dumps(last)
    assert f"{wanted.consistency}" in json.dumps(last)


def test_a_checkpoint_gives_the_folder_and_the_originals_file(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(checkpoint_app, ["weights", str(run), str(out)])
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == sorted(x.name for x in (run / "last").iterdir())
    assert (out / "config.json").read_text() == (run / "last/config.json").read_text()
    wanted, text = open_pair_folder(run / "last")
    found, same_text = open_pair_folder(out)
    assert same_text.max_length == text.max_length == 30
    assert CliRunner().invoke(checkpoint_app, ["weights", str(run), f"{out}.pth"]).exit_code == 0
    airsplay = from_airsplay(f"{out}.pth", num_attention_heads=4)
    assert "logit_fc.0.weight" in torch.load(f"{out}.pth", weights_only=True)
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
        assert torch.equal(airsplay.state_dict()[name], value)


def test_a_killed_run_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"data": {"pairs_per_sentence": 2}}
    finetune(settings(folder, tmp_path / "whole", **how), report=quiet)
    with killed_at(monkeypatch, 9):
        finetune(settings(folder, tmp_path / "broken", **how), report=quiet)
    assert finetune(settings(folder, tmp_path / "broken", **how), report=quiet)["resumed_at"] == 8
    whole, broken = (open_pair_folder(tmp_path / name / "last")[0] for name in ("whole", "broken"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))


def test_ranks_judge_what_one_judges(folder: Path, tmp_path: Path) -> None:
    task = PairTask(settings(folder, tmp_path))
    assert task.valid is not None
    alone = judge_pairs(task.model, task.valid)
    for found in together(3, lambda ranks: judge_pairs(task.model, task.valid, batch_size=7, ranks=ranks)):
        assert np.array_equal(found, alone)


def test_pairs_of_a_sentence_stand_together(folder: Path, tmp_path: Path) -> None:
    assert PairTask(settings(folder, tmp_path)).runs() is None
    task = PairTask(settings(folder, tmp_path, data={"pairs_per_sentence": 4}))
    runs = task.runs()
    assert runs is not None
    order = task.train.texts[runs.shuffled(np.random.default_rng(0))]
    assert 12 <= (order != np.roll(order, 1)).sum() <= 13
    counts = task.counts(task.train[next(iter(_keys(task)))])
    assert counts["loss"] == counts["pairs"] == 8
    assert counts["flops"] > 0


def _keys(task: PairTask) -> Any:
    from lxmert_fast.data.batches import EpochBatches

    return EpochBatches(task.num_examples(), 8, seed=0, runs=task.runs())


def test_subsets_are_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four images; a real tiny is 512."""
    monkeypatch.setitem(IMAGES_PER_FILE, "tiny", 4)
    task = PairTask(settings(folder, tmp_path, data={"subset": "tiny"}))
    assert (task.num_examples(), task.train.left_out) == (4, 44)
    assert task.notes == [
        f"training: 4 examples of {folder / 'train.json'}, 44 left out by data.subset=tiny",
        f"validation: 4 examples of {folder / 'valid.json'}, 12 left out by data.subset=tiny",
    ]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_encoders_come_from_pretraining_and_the_head_is_new(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    """The original's --loadLXMERT: no row of the answer head is taken; the new one is N(0, 0.02)."""
    config = make_config(**FITTING)
    source = tmp_path / "start.pth"
    if kind == "file":
        content = original(**FITTING)
        torch.save(content, source)
        words = content["bert.embeddings.word_embeddings.weight"]
    else:
        source = tmp_path / "start"
        pretrained = LxmertForPreTraining(config)
        pretrained.save_pretrained(source)
        words = pretrained.lxmert.embeddings.word_embeddings.weight
    task = PairTask(settings(folder, tmp_path, model={"start_from": str(source)}))
    assert torch.equal(task.model.lxmert.embeddings.word_embeddings.weight, words)
    head = task.model.answer_head.logit_fc
    hidden = task.model.config.hidden_size
    assert head[0].weight.shape == (2 * hidden, 2 * hidden)
    assert head[3].weight.shape == (2, 2 * hidden)
    # 5 standard errors of a standard deviation
    assert abs(head[0].weight.std().item() / 0.02 - 1) < 5 / (2 * head[0].weight.numel()) ** 0.5


def test_a_start_that_matches_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    """Where the original trains on from noise and stays at 50.86."""
    torch.save({"model.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth"):
        PairTask(settings(folder, tmp_path, model={"start_from": str(tmp_path / "other.pth")}))
    source = tmp_path / "start"
    LxmertForPreTraining(make_config(vocab_size=100, visual_feat_dim=5)).save_pretrained(source)
    with pytest.raises(InputError, match="a model of 5 numbers a feature"):
        PairTask(settings(folder, tmp_path, model={"start_from": str(source)}))
    with pytest.raises(InputError, match=r"start_answers: NLVR2 has no answers"):
        PairTask(settings(folder, tmp_path, model={"start_answers": "all_ans.json"}))


def test_training_wants_labels_and_evaluation_too(run: Path, folder: Path, tmp_path: Path) -> None:
    hidden = write_json(tmp_path / "hidden.json", pair_entries(1, "dev", labelled=False, seed=1))
    with pytest.raises(InputError, match=r"hidden\.json: its sentences have no labels"):
        PairTask(settings(folder, tmp_path, data={"train": str(hidden)}))
    store = ("--regions", folder / "regions.h5")
    assert "no labels, nothing can be scored" in str(call("evaluate", run / "last", hidden, *store).exception)
    assert call("predict", run / "last", hidden, tmp_path / "p.csv", *store).exit_code == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 8
    assert "is a folder" in str(call("predict", run / "last", hidden, tmp_path, *store).exception)


def test_folders_that_are_none(run: Path, tmp_path: Path) -> None:
    assert not is_pair_folder(tmp_path)
    shutil.copytree(run / "last", tmp_path / "model")
    (tmp_path / "model/vocab.txt").unlink()
    with pytest.raises(InputError, match=r"model: no vocab\.txt in it"):
        open_pair_folder(tmp_path / "model")


def test_the_shipped_recipe() -> None:
    """Reference 4."""
    found = load_settings(FinetuneSettings, "nlvr2")
    assert isinstance(found.data, Nlvr2Data)
    how = found.optimisation
    assert (how.batch_size, how.lr, how.epochs, how.clip, how.warmup) == (32, 5e-5, 4, 5.0, 0.1)
    assert (how.optimizer, how.weight_decay, found.data.max_length) == ("bertadam", 0.01, 20)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data.answers=a.json", "nlvr2.yaml: data.answers: unknown key, found 'a.json'"),
        ("data.subset=small", "data.subset: Input should be 'tiny', 'fast' or 'full', found 'small'"),
        ("data.pairs_per_sentence=0", "data.pairs_per_sentence: Input should be greater than or equal to 1"),
        ("data.train=[]", "data.train: Value should have at least 1 item"),
        ("data=x", "data: Input should be a valid dictionary or instance of Nlvr2Data, found 'x'"),
        ("task=vqa", ": unknown key, found "),
    ],
)
def test_settings_of_another_task_are_named(override: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        load_settings(FinetuneSettings, "nlvr2", [override])
    assert line in str(caught.value)


def test_which_image_is_which_is_learnt(shared_data: Path, tmp_path: Path) -> None:
    """Real sentences; made-up regions that say true where the left image is the brighter one, false where the
    right is. Only a model that keeps them apart can tell, of images that it has not seen too."""
    lines = (shared_data / "nlvr2/dev.json").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:160]]
    seen: set[str] = set()  # one sentence a pair of images, whose label is then the pair's
    rows = [row for row in rows if not (row["identifier"][:-2] in seen or seen.add(row["identifier"][:-2]))]
    source = official_lines(tmp_path / "dev.json", rows)
    entries = convert(source, tmp_path / "valid.json", "valid")
    bright = {entry["img0" if entry["label"] else "img1"] for entry in entries}
    regions_of(tmp_path / "regions.h5", entries, bright=bright)
    write_json(tmp_path / "train.json", entries[:64])
    write_json(tmp_path / "valid.json", entries[64:])
    learn_vocabulary((entry["sent"] for entry in entries), tmp_path / "vocab.txt", 900)
    how = {"optimisation": {"batch_size": 16, "epochs": 6, "lr": 1e-3}, "model": {"initializer_range": 0.09}}
    summary = finetune(settings(tmp_path, tmp_path / "run", **how), report=print)
    assert summary["best"]["accuracy"] == summary["best"]["consistency"] == 1.0
