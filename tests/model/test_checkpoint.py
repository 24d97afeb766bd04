"""Checkpoints of both code bases: every form of file opens, and whatever does not fit is said in one line."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import make_config, scatter
from checkpoint_files import DECODER, assert_equal_weights, bert_file, make_model, original, prefixed
from safetensors.torch import load_file
from torch import Tensor

from lxmert_fast.checkpoint import (
    from_airsplay,
    load_into,
    load_model,
    open_model,
    save_airsplay,
    save_folder,
)
from lxmert_fast.errors import InputError
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering

KINDS = [LxmertModel, LxmertForPreTraining, LxmertForQuestionAnswering, LxmertForImagePairs]


FORMS: dict[str, tuple[type, Callable[[], dict[str, Tensor]]]] = {
    "pre-training": (LxmertForPreTraining, original),
    "pre-training, several GPUs": (LxmertForPreTraining, lambda: prefixed(original(), "front")),
    "pre-training without the tied decoder": (
        LxmertForPreTraining,
        lambda: {name: tensor for name, tensor in original().items() if name != DECODER},
    ),
    "VQA": (LxmertForQuestionAnswering, lambda: original(LxmertForQuestionAnswering)),
    "VQA, several GPUs": (
        LxmertForQuestionAnswering,
        lambda: prefixed(original(LxmertForQuestionAnswering), "inside"),
    ),
    "VQA, all of it wrapped": (
        LxmertForQuestionAnswering,
        lambda: prefixed(prefixed(original(LxmertForQuestionAnswering), "inside"), "front"),
    ),
    "NLVR2": (LxmertForImagePairs, lambda: original(LxmertForImagePairs)),
    "NLVR2, several GPUs": (LxmertForImagePairs, lambda: prefixed(original(LxmertForImagePairs), "inside")),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_originals_files(form: str, tmp_path: Path):
    kind, content = FORMS[form]
    torch.save(content(), tmp_path / "file.pth")
    model, wanted = from_airsplay(tmp_path / "file.pth"), make_model(kind)
    assert type(model) is kind
    assert not model.training
    assert_equal_weights(model, wanted)
    for size in (
        *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings"),
        *("type_vocab_size", "l_layers", "r_layers", "x_layers", "visual_feat_dim"),
    ):
        assert getattr(model.config, size) == getattr(wanted.config, size), size
    if kind is LxmertForPreTraining:
        assert model.config.num_object_labels == wanted.config.num_object_labels
        assert model.config.num_attr_labels == wanted.config.num_attr_labels
        assert model.cls.predictions.decoder.weight is model.lxmert.embeddings.word_embeddings.weight
    if kind is not LxmertForImagePairs:
        assert model.config.num_qa_labels == wanted.config.num_qa_labels
    assert model.config.visual_loss_normalizer == 1 / 0.15


def test_row_zero_stays_as_the_file_has_it(tmp_path: Path):
    save_airsplay(make_model(LxmertForPreTraining), tmp_path / "file.pth")
    embeddings = from_airsplay(tmp_path / "file.pth").lxmert.embeddings
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    assert all(getattr(embeddings, table).weight[0].abs().min() > 0 for table in tables)


def test_two_files_of_one_name_are_an_error(tmp_path: Path):
    for name in ("file.pth", "file_LXRT.pth"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"both .*file\.pth and .*file_LXRT\.pth are there"):
        from_airsplay(tmp_path / "file")


@pytest.mark.parametrize("given", ["file.pth", "file", "file_LXRT.pth"])
@pytest.mark.parametrize("suffix", [".pth", "_LXRT.pth"])
def test_the_suffix_may_be_left_out(given: str, suffix: str, tmp_path: Path):
    save_airsplay(make_model(LxmertForPreTraining), tmp_path / f"file{suffix}")
    if given in ("file", f"file{suffix}"):
        assert type(load_model(tmp_path / given)) is LxmertForPreTraining
    else:
        with pytest.raises(InputError, match="no such file"):
            load_model(tmp_path / given)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_bit_equal(kind: type, tmp_path: Path):
    model = make_model(kind)
    save_airsplay(model, tmp_path / "file.pth")
    again = from_airsplay(tmp_path / "file.pth")
    assert type(again) is kind
    assert_equal_weights(again, model)
    save_airsplay(again, tmp_path / "again.pth")
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("file.pth", "again.pth"))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", [LxmertForPreTraining, LxmertForQuestionAnswering, LxmertForImagePairs])
def test_written_names_are_the_originals(kind: type, tmp_path: Path):
    save_airsplay(make_model(kind), tmp_path / "file.pth")
    content = torch.load(tmp_path / "file.pth", weights_only=True)
    assert type(content) is OrderedDict
    assert list(content) == list(original(kind))
    assert (DECODER in content) == (kind is LxmertForPreTraining)


def test_golden_weights_open_and_go_back(golden_file: Path, tmp_path: Path):
    """Weights that the original itself has named."""
    stored = load_file(golden_file)
    content = {name.removeprefix("weights/"): x for name, x in stored.items() if name.startswith("weights/")}
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(
        InputError, match=r"hidden size 48 is no multiple of 64.*number of heads: give it .*--heads"
    ):
        from_airsplay(tmp_path / "file.pth")
    model = from_airsplay(tmp_path / "file.pth", num_attention_heads=4)
    save_airsplay(model, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert set(again) == set(content) | {DECODER}
    assert all(torch.equal(again[name], tensor) for name, tensor in content.items())


class TestBert:
    """Text-only weights match a part of the model, and only on request."""

    def test_has_to_be_asked_for(self, tmp_path: Path):
        torch.save(bert_file(), tmp_path / "bert.pth")
        with pytest.raises(
            InputError, match=r"matched \d+ of \d+ entries.*missing.*visn_fc.*left over 48"
        ) as e:
            from_airsplay(tmp_path / "bert.pth")
        assert "\n" not in str(e.value)

    def test_first_nine_layers(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        content = bert_file()
        torch.save(content, tmp_path / "bert.pth")
        model, summary = open_model(tmp_path / "bert.pth", allow_partial=True)
        assert type(model) is LxmertForPreTraining
        assert len(model.lxmert.encoder.layer) == 9
        assert len(summary.left_over) == 3 * 16
        assert {name.split(".")[3] for name in summary.left_over} == {"9", "10", "11"}
        assert "left over 48" in caplog.text
        state = model.state_dict()
        for name, tensor in content.items():
            name = name.replace("bert.", "lxmert.", 1).replace("gamma", "weight").replace("beta", "bias")
            if name in state:
                assert torch.equal(state[name], tensor), name
        assert all(p.isfinite().all() for p in model.parameters())

    def test_into_a_model_of_other_depth(self, tmp_path: Path):
        torch.save(bert_file(layers=2), tmp_path / "bert.pth")
        config = make_config(hidden_size=128, num_attention_heads=2, l_layers=2)
        model = from_airsplay(tmp_path / "bert.pth", config=config, allow_partial=True)
        assert (len(model.lxmert.encoder.layer), len(model.lxmert.encoder.x_layers)) == (2, 2)


class TestPartial:
    """Nothing is loaded in silence."""

    def test_missing_and_left_over_are_named(self):
        model = make_model(LxmertForPreTraining)
        content = original()
        content["cls.predictions.renamed"] = content.pop("cls.predictions.bias")
        with pytest.raises(
            InputError,
            match=r"matched \d+ of \d+ entries of LxmertForPreTraining; missing 1 \(cls.predictions.bias\); "
            r"left over 1 \(cls.predictions.renamed\)",
        ):
            load_into(model, content)
        summary = load_into(model, content, allow_partial=True)
        assert summary.missing == ("cls.predictions.bias",)
        assert summary.left_over == ("cls.predictions.renamed",)
        assert not summary.complete

    def test_other_shapes_are_named(self):
        content = original()
        content["bert.pooler.dense.weight"] = torch.zeros(3, 4)
        with pytest.raises(InputError, match=r"lxmert.pooler.dense.weight \(3, 4\), wanted \(128, 128\)"):
            load_into(make_model(LxmertForPreTraining), content)

    def test_nothing_is_changed_by_a_refused_load(self):
        model, content = scatter(make_model(LxmertForPreTraining), seed=5), original()
        del content["cls.predictions.bias"]
        with pytest.raises(InputError):
            load_into(model, content)
        assert_equal_weights(model, scatter(make_model(LxmertForPreTraining), seed=5))

    def test_a_file_that_matches_nothing_is_refused_even_then(self, tmp_path: Path):
        torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, tmp_path / "resnet.pth")
        with pytest.raises(InputError, match=r"matched 0 of 473 entries.*missing 473.*left over 2 \(conv1"):
            from_airsplay(tmp_path / "resnet.pth")
        with pytest.raises(InputError, match="backbone entries are fewer than half"):
            from_airsplay(tmp_path / "resnet.pth", allow_partial=True)

    def test_too_little_is_refused_even_then(self):
        content = {name: x for name, x in original().items() if "encoder" not in name}
        with pytest.raises(InputError, match="fewer than half"):
            load_into(make_model(LxmertForPreTraining), content, allow_partial=True)

    def test_pretraining_file_into_a_question_answering_model(self):
        """The object and word heads are left over, the answer head fits as it is."""
        model = scatter(make_model(LxmertForQuestionAnswering), seed=5)
        with pytest.raises(InputError, match="left over 18"):
            load_into(model, original())
        summary = load_into(model, original(), allow_partial=True)
        assert not summary.missing
        assert len(summary.left_over) == 18

    def test_decoder_that_differs_from_its_embedding(self):
        content = original()
        content[DECODER] = content[DECODER] + 1
        with pytest.raises(InputError, match="decoder"):
            load_into(make_model(LxmertForPreTraining), content)

    def test_two_entries_of_one_name(self, tmp_path: Path):
        content = original()
        content["module.bert.pooler.dense.bias"] = torch.zeros(128)
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(InputError, match=r"are both 'lxmert.pooler.dense.bias'"):
            from_airsplay(tmp_path / "file.pth")


class Code:
    """A pickle that would run something."""

    def __reduce__(self) -> Any:
        return (Path("it-ran").touch, ())


def write_code(file: Path) -> None:
    torch.save({"bert.pooler.dense.bias": Code()}, file)


def write_truncated(file: Path) -> None:
    torch.save(original(), file)
    file.write_bytes(file.read_bytes()[:5000])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda file: None, "no such file"),
    "empty": (lambda file: file.write_bytes(b""), "empty file"),
    "truncated": (write_truncated, "not a PyTorch file, or damaged"),
    "text": (lambda file: file.write_text("hello\n" * 30), "not a PyTorch file, or damaged"),
    "code": (write_code, "carries code"),
    "old pickle with code": (
        lambda file: file.write_bytes(pickle.dumps({"a": Code()})),
        "carries code|damaged",
    ),
    "list": (lambda file: torch.save([torch.zeros(2)], file), "holds a list, wanted a dictionary of tensors"),
    "no tensors": (lambda file: torch.save({}, file), "holds no tensors"),
    "training state": (
        lambda file: torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, file),
        "entry 'model' is a dict, wanted tensors only",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_get_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write, line = BROKEN[name]
    file = tmp_path / "file.pth"
    write(file)
    with pytest.raises(InputError, match=line) as caught:
        load_model(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("it-ran").exists()


def test_unwritable_places(tmp_path: Path):
    model = make_model(LxmertForPreTraining)
    (tmp_path / "file").write_text("")
    for save in (save_airsplay, save_folder):
        with pytest.raises(InputError, match="cannot be written"):
            save(model, tmp_path / "file" / "out")
