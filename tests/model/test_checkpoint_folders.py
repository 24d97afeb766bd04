"""Hugging Face's format, both ways, and folders that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import both, image_pairs_model, make_batch, make_config
from checkpoint_files import DECODER, assert_equal_weights, make_model, original
from safetensors.torch import load_file, save_file
from transformers import LxmertConfig
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast.checkpoint import from_airsplay, load_model, save_airsplay, save_folder
from lxmert_fast.errors import InputError
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pre-training model as transformers itself saves it."""
    # a fresh configuration: ours carries its choice of attention, which transformers' model does not have
    config = LxmertConfig(**make_model(LxmertForPreTraining).config.to_dict())
    theirs = huggingface.LxmertForPreTraining(config)
    theirs.load_state_dict(make_model(LxmertForPreTraining).state_dict())
    theirs.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


@pytest.mark.parametrize("kind", [LxmertForPreTraining, LxmertForQuestionAnswering, LxmertModel])
def test_theirs_opens_here(kind: type, tmp_path: Path):
    ours, theirs = both(kind)
    theirs.save_pretrained(tmp_path / "folder")
    for opened in (load_model(tmp_path / "folder"), kind.from_pretrained(tmp_path / "folder")):
        assert type(opened) is kind
        assert_equal_weights(opened, ours)


@pytest.mark.parametrize("kind", [LxmertForPreTraining, LxmertForQuestionAnswering, LxmertModel])
@pytest.mark.parametrize("save", [save_folder, lambda model, folder: model.save_pretrained(folder)])
def test_ours_opens_there(kind: type, save: Callable[[Any, Path], None], tmp_path: Path):
    ours, theirs = both(kind)
    save(ours, tmp_path / "folder")
    again, info = type(theirs).from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(info.values())
    assert_equal_weights(again, ours)
    batch = make_batch(ours.config)
    assert torch.equal(again.eval()(**batch)[0], theirs(**batch)[0])


def test_with_and_without_the_tied_decoder(folder: Path):
    file = folder / "model.safetensors"
    state = load_file(file)
    assert DECODER not in state
    wanted = make_model(LxmertForPreTraining)
    assert_equal_weights(load_model(folder), wanted)
    state[DECODER] = state["lxmert.embeddings.word_embeddings.weight"].clone()
    save_file(state, file, metadata={"format": "pt"})
    opened = load_model(folder)
    assert_equal_weights(opened, wanted)
    assert opened.cls.predictions.decoder.weight is opened.lxmert.embeddings.word_embeddings.weight


def test_backbone_out_of_a_pretraining_folder(folder: Path):
    with pytest.raises(InputError, match="left over"):
        load_model(folder, LxmertModel)
    model = load_model(folder, LxmertModel, allow_partial=True)
    assert torch.equal(model.pooler.dense.weight, make_model(LxmertForPreTraining).lxmert.pooler.dense.weight)


def test_original_to_folder_to_original(tmp_path: Path):
    torch.save(original(), tmp_path / "a.pth")
    save_folder(from_airsplay(tmp_path / "a.pth"), tmp_path / "folder")
    model = load_model(tmp_path / "folder")
    assert model.config.visual_loss_normalizer == 1 / 0.15
    save_airsplay(model, tmp_path / "b.pth")
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert all(torch.equal(content[name], tensor) for name, tensor in original().items())


def test_dtype_is_the_folders(tmp_path: Path):
    save_folder(make_model(LxmertForPreTraining).bfloat16(), tmp_path / "folder")
    assert load_model(tmp_path / "folder").dtype is torch.bfloat16


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hidden_size": 64}, r"word_embeddings.weight \(97, 128\), wanted \(97, 64\)"),
        ({"vocab_size": 98}, r"word_embeddings.weight \(97, 128\), wanted \(98, 128\)"),
        ({"l_layers": 4}, r"missing 16 \(lxmert.encoder.layer.3"),
        ({"l_layers": 2}, r"left over 16 \(lxmert.encoder.layer.2"),
        ({"model_type": "bert"}, "model_type is 'bert', wanted 'lxmert'"),
        ({"architectures": ["Other"]}, "architectures names 'Other', wanted one of LxmertModel"),
        ({"num_attention_heads": 3}, "128 is not a multiple of num_attention_heads 3"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, Any], line: str, folder: Path):
    edit(folder, **changes)
    with pytest.raises(InputError, match=line) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json in it"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: "),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in it"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b""),
            "not a safetensors file, or damaged",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-7]
            ),
            "not a safetensors file, or damaged",
        ),
    ],
)
def test_damaged_folders(damage: Callable[[Path], Any], line: str, folder: Path):
    damage(folder)
    with pytest.raises(InputError, match=line) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_sharded_folder(tmp_path: Path):
    model = make_model(LxmertForPreTraining)
    model.save_pretrained(tmp_path / "folder", max_shard_size="200KB")
    assert len(list((tmp_path / "folder").glob("model-*.safetensors"))) > 1
    assert_equal_weights(load_model(tmp_path / "folder"), model)


def test_image_pairs_folder(tmp_path: Path):
    model = image_pairs_model(make_config())
    save_folder(model, tmp_path / "folder")
    assert_equal_weights(load_model(tmp_path / "folder"), model)
    shutil.copytree(tmp_path / "folder", tmp_path / "copy")
    assert_equal_weights(LxmertForImagePairs.from_pretrained(tmp_path / "copy"), model)
    assert isinstance(load_model(tmp_path / "copy").config, LxmertConfig)
