"""Configuration files: what ships is valid, what is wrong is named."""

from __future__ import annotations

import pytest
import yaml

from lxmert_fast.errors import InputError
from lxmert_fast.train.ablation_settings import AblationSettings
from lxmert_fast.train.config_files import shipped_names
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, load_settings

MINIMAL = {
    "data": {"train": ["a.json"], "regions": ["r.h5"], "vocabulary": "v.txt"},
    "run": {"output": "runs/x"},
}


def write(tmp_path, tree) -> object:
    path = tmp_path / "c.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


def kind_of(name: str) -> type[PretrainSettings] | type[FinetuneSettings] | type[AblationSettings]:
    if name.startswith("ablation"):
        return AblationSettings
    return PretrainSettings if "pretrain" in name else FinetuneSettings


@pytest.mark.parametrize("name", shipped_names(whole=True))
def test_shipped_configurations_are_valid(name):
    load_settings(kind_of(name), name)


def test_there_are_shipped_configurations():
    assert set(shipped_names(whole=True)) >= {"pretrain", "pretrain_large_batch", "vqa", "easyvqa"}
    assert shipped_names(whole=False) == ["zero1", "zero2", "zero3", "zero3_offload"]


def test_defaults_are_the_papers(tmp_path):
    settings = load_settings(PretrainSettings, write(tmp_path, MINIMAL))
    assert (settings.model.l_layers, settings.model.r_layers, settings.model.x_layers) == (9, 5, 5)
    assert settings.model.hidden_size == 768
    assert settings.optimisation.lr == 1e-4
    assert settings.optimisation.batch_size == 256
    assert settings.optimisation.clip == 1.0


def test_overrides_go_on_top(tmp_path):
    settings = load_settings(
        PretrainSettings,
        write(tmp_path, MINIMAL),
        ["optimisation.lr=5e-5", "run.output=elsewhere", "data.label_masked_only=true"],
    )
    assert settings.optimisation.lr == 5e-5
    assert str(settings.run.output) == "elsewhere"
    assert settings.data.label_masked_only


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimisation.learning_rate=1", "optimisation.learning_rate: unknown key"),
        ("optimisation.lr=fast", "optimisation.lr: .*'fast'"),
        ("optimisation.batch_size=0", "optimisation.batch_size: .*0"),
        ("optimisation.lr", "wanted section.key=value"),
        ("run.output.x=1", "output is not a section"),
        ("run.output=[", "not a YAML value"),
        ("data.word_mask_rate=1.5", "data.word_mask_rate"),
    ],
)
def test_bad_overrides_are_named(tmp_path, override, line):
    with pytest.raises(InputError, match=line) as caught:
        load_settings(PretrainSettings, write(tmp_path, MINIMAL), [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("- 1\n- 2\n", "wanted sections"),
        ("a: [", "not YAML"),
        ("", "wanted sections"),
        ("data: {}\nrun: {output: x}\n", "data.train: Field required"),
    ],
)
def test_bad_files_are_named(tmp_path, content, line):
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=line) as caught:
        load_settings(PretrainSettings, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such configuration file"):
        load_settings(PretrainSettings, tmp_path / "none.yaml")


def test_question_answering_wants_a_folder_or_files(tmp_path):
    path = write(tmp_path, {"data": {"train": "t.json"}, "run": {"output": "x"}})
    with pytest.raises(InputError, match="wants `folder`, or"):
        load_settings(FinetuneSettings, path)
