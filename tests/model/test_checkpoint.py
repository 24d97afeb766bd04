"""Checkpoints of both code bases: every form of file opens, and whatever does not fit is said in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import both, image_pairs_model, make_batch, make_config, scatter
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LxmertConfig
from transformers.models.lxmert import modeling_lxmert as huggingface
from typer.testing import CliRunner

from lxmert_fast.checkpoint import (
    from_airsplay,
    load_answer_rows,
    load_into,
    load_model,
    open_model,
    save_airsplay,
    save_folder,
)
from lxmert_fast.commands.checkpoint import app
from lxmert_fast.errors import InputError
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering

DECODER = "cls.predictions.decoder.weight"
KINDS = [LxmertModel, LxmertForPreTraining, LxmertForQuestionAnswering, LxmertForImagePairs]


def make_model(kind: type) -> Any:
    """Heads of 64, as the original's, so that a file tells everything."""
    return scatter(kind(make_config(hidden_size=128, num_attention_heads=2, l_layers=3))).eval()


def assert_equal_weights(found: Any, wanted: Any) -> None:
    mine, theirs = found.state_dict(), wanted.state_dict()
    assert list(mine) == list(theirs)
    assert [name for name in theirs if not torch.equal(mine[name], theirs[name])] == []


def original(kind: type = LxmertForPreTraining) -> OrderedDict[str, Tensor]:
    """A file's content as the original would have written it, spelled out here once more."""
    model = make_model(kind)
    content = OrderedDict()
    for name, tensor in model.state_dict().items():
        if kind is LxmertForPreTraining:
            content[name.replace("lxmert.", "bert.", 1) if name.startswith("lxmert.") else name] = tensor
        elif name.startswith("lxmert."):
            content["lxrt_encoder.model.bert." + name.removeprefix("lxmert.")] = tensor
        else:
            content[name.removeprefix("answer_head.")] = tensor
    return content


def prefixed(content: dict[str, Tensor], where: str) -> OrderedDict[str, Tensor]:
    """As DataParallel names it: `module.` in front, or inside the encoder of a fine-tuned model."""
    if where == "front":
        return OrderedDict((f"module.{name}", tensor) for name, tensor in content.items())
    inside = "lxrt_encoder.model."
    return OrderedDict((name.replace(inside, f"{inside}module."), tensor) for name, tensor in content.items())


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
    with pytest.raises(InputError, match=r"hidden size 48 is no multiple of 64.*number of heads: give it"):
        from_airsplay(tmp_path / "file.pth")
    model = from_airsplay(tmp_path / "file.pth", num_attention_heads=4)
    save_airsplay(model, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert set(again) == set(content) | {DECODER}
    assert all(torch.equal(again[name], tensor) for name, tensor in content.items())


def bert_file(layers: int = 12) -> OrderedDict[str, Tensor]:
    """BERT's archive: three times more language layers, LayerNorms called gamma and beta, no vision."""
    whole = scatter(
        LxmertForPreTraining(make_config(hidden_size=128, num_attention_heads=2, l_layers=layers))
    )
    content = OrderedDict()
    for name, tensor in whole.state_dict().items():
        if name.startswith(("lxmert.embeddings.", "lxmert.encoder.layer.", "lxmert.pooler.", "cls.")):
            name = name.replace("lxmert.", "bert.", 1)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            content[name] = tensor
    return content


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
        return (Path("/tmp/lxmert-fast-must-not-exist").touch, ())


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
def test_broken_files_get_one_line(name: str, tmp_path: Path):
    write, line = BROKEN[name]
    file = tmp_path / "file.pth"
    write(file)
    with pytest.raises(InputError, match=line) as caught:
        load_model(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/lxmert-fast-must-not-exist").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pre-training model as transformers itself saves it."""
    # a fresh configuration: ours carries its choice of attention, which transformers' model does not have
    config = LxmertConfig(**make_model(LxmertForPreTraining).config.to_dict())
    theirs = huggingface.LxmertForPreTraining(config)
    theirs.load_state_dict(make_model(LxmertForPreTraining).state_dict())
    theirs.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


class TestFolders:
    """Hugging Face's format, both ways."""

    @pytest.mark.parametrize("kind", [LxmertForPreTraining, LxmertForQuestionAnswering, LxmertModel])
    def test_theirs_opens_here(self, kind: type, tmp_path: Path):
        ours, theirs = both(kind)
        theirs.save_pretrained(tmp_path / "folder")
        for opened in (load_model(tmp_path / "folder"), kind.from_pretrained(tmp_path / "folder")):
            assert type(opened) is kind
            assert_equal_weights(opened, ours)

    @pytest.mark.parametrize("kind", [LxmertForPreTraining, LxmertForQuestionAnswering, LxmertModel])
    @pytest.mark.parametrize("save", [save_folder, lambda model, folder: model.save_pretrained(folder)])
    def test_ours_opens_there(self, kind: type, save: Callable[[Any, Path], None], tmp_path: Path):
        ours, theirs = both(kind)
        save(ours, tmp_path / "folder")
        again, info = type(theirs).from_pretrained(tmp_path / "folder", output_loading_info=True)
        assert not any(info.values())
        assert_equal_weights(again, ours)
        batch = make_batch(ours.config)
        assert torch.equal(again.eval()(**batch)[0], theirs(**batch)[0])

    def test_with_and_without_the_tied_decoder(self, folder: Path):
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

    def test_backbone_out_of_a_pretraining_folder(self, folder: Path):
        with pytest.raises(InputError, match="left over"):
            load_model(folder, LxmertModel)
        model = load_model(folder, LxmertModel, allow_partial=True)
        assert torch.equal(
            model.pooler.dense.weight, make_model(LxmertForPreTraining).lxmert.pooler.dense.weight
        )

    def test_original_to_folder_to_original(self, tmp_path: Path):
        torch.save(original(), tmp_path / "a.pth")
        save_folder(from_airsplay(tmp_path / "a.pth"), tmp_path / "folder")
        model = load_model(tmp_path / "folder")
        assert model.config.visual_loss_normalizer == 1 / 0.15
        save_airsplay(model, tmp_path / "b.pth")
        content = torch.load(tmp_path / "b.pth", weights_only=True)
        assert all(torch.equal(content[name], tensor) for name, tensor in original().items())

    def test_dtype_is_the_folders(self, tmp_path: Path):
        save_folder(make_model(LxmertForPreTraining).bfloat16(), tmp_path / "folder")
        assert load_model(tmp_path / "folder").dtype is torch.bfloat16

    def edit(self, folder: Path, **changes: Any) -> None:
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
    def test_configurations_that_do_not_fit(self, changes: dict[str, Any], line: str, folder: Path):
        self.edit(folder, **changes)
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
    def test_damaged_folders(self, damage: Callable[[Path], Any], line: str, folder: Path):
        damage(folder)
        with pytest.raises(InputError, match=line) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


class TestAnswerRows:
    """The original's --loadLXMERTQA (reference 4)."""

    table = ("yes", "no", "2", "blue", "dog")
    labels = ("", "Two", "the dog", "purple", "yes")

    def models(self) -> tuple[Any, Any]:
        sizes = {"hidden_size": 128, "num_attention_heads": 2}
        source = scatter(LxmertForPreTraining(make_config(**sizes, num_qa_labels=5)))
        target = scatter(LxmertForQuestionAnswering(make_config(**sizes, num_qa_labels=5)), seed=9)
        return source, target

    def test_rows_go_by_normalised_name(self):
        source, target = self.models()
        done = load_answer_rows(target, source.state_dict(), self.table, self.labels)
        assert (done.copied, done.zeroed) == (3, ("", "purple"))
        last, wanted = target.answer_head.logit_fc[3], source.answer_head.logit_fc[3]
        for row, origin in enumerate((None, 2, 4, None, 0)):
            if origin is None:
                assert not last.weight[row].any()
                assert last.bias[row] == 0
            else:
                assert torch.equal(last.weight[row], wanted.weight[origin])
                assert last.bias[row] == wanted.bias[origin]
        for part in ("0.weight", "0.bias", "2.weight", "2.bias"):
            mine, theirs = (m.answer_head.logit_fc.get_parameter(part) for m in (target, source))
            assert torch.equal(mine, theirs)
        assert_equal_weights(target.lxmert, source.lxmert)

    def test_original_names_do_too(self):
        source, target = self.models()
        state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
        assert load_answer_rows(target, state, self.table, self.labels).copied == 3

    def test_lists_of_another_length(self):
        source, target = self.models()
        with pytest.raises(InputError, match="4 answers named, the source's answer head has 5 rows"):
            load_answer_rows(target, source.state_dict(), self.table[:4], self.labels)
        with pytest.raises(InputError, match="6 answers named, the model's answer head has 5 rows"):
            load_answer_rows(target, source.state_dict(), self.table, (*self.labels, "x"))

    def test_source_without_an_answer_head(self):
        source, target = self.models()
        with pytest.raises(InputError, match="no answer head"):
            load_answer_rows(target, source.lxmert.state_dict(), self.table, self.labels)


class TestCommand:
    """`lxmert-fast checkpoint`."""

    def run(self, *arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def test_convert_both_ways(self, tmp_path: Path):
        torch.save(original(), tmp_path / "a.pth")
        result = self.run("convert", tmp_path / "a.pth", tmp_path / "folder")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "folder" / "model.safetensors").is_file()
        result = self.run("convert", tmp_path / "folder", tmp_path / "b.pth")
        assert result.exit_code == 0, result.output
        content = torch.load(tmp_path / "b.pth", weights_only=True)
        assert list(content) == list(original())
        assert all(torch.equal(content[name], tensor) for name, tensor in original().items())

    def test_partial_is_a_flag(self, tmp_path: Path):
        torch.save(bert_file(), tmp_path / "bert.pth")
        refused = self.run("convert", tmp_path / "bert.pth", tmp_path / "folder")
        assert isinstance(refused.exception, InputError)
        assert not (tmp_path / "folder").exists()
        result = self.run("convert", tmp_path / "bert.pth", tmp_path / "folder", "--partial")
        assert result.exit_code == 0
        assert "left over 48" in result.output

    def test_what_exists_stays(self, tmp_path: Path):
        torch.save(original(), tmp_path / "a.pth")
        (tmp_path / "b.pth").write_text("mine")
        refused = self.run("convert", tmp_path / "a.pth", tmp_path / "b.pth")
        assert "exists already; --force replaces it" in str(refused.exception)
        assert (tmp_path / "b.pth").read_text() == "mine"
        assert self.run("convert", tmp_path / "a.pth", tmp_path / "b.pth", "--force").exit_code == 0
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []

    def test_info(self, tmp_path: Path):
        content = original()
        content["cls.predictions.bias"] = torch.full_like(content["cls.predictions.bias"], float("nan"))
        torch.save(content, tmp_path / "a.pth")
        output = self.run("info", tmp_path / "a.pth").output
        for fact in (
            "LxmertForPreTraining",
            "3 language, 2 relationship, 2 cross",
            "128, 2 heads",
            "97 words",
        ):
            assert fact in output
        assert [line.split()[-1] for line in output.splitlines() if line.startswith("not finite")] == ["97"]


def test_unwritable_places(tmp_path: Path):
    model = make_model(LxmertForPreTraining)
    (tmp_path / "file").write_text("")
    for save in (save_airsplay, save_folder):
        with pytest.raises(InputError, match="cannot be written"):
            save(model, tmp_path / "file" / "out")


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
