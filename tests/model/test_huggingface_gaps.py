"""What transformers' LXMERT cannot do (reference 1.6, by row) works here.

Where it is cheap the test also shows that transformers still fails, so that a release which mends it is
noticed.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import B, T, both, embed_text, make_batch, make_config, pretraining_labels, scatter
from tolerance import assert_close, gradients
from transformers import LxmertConfig
from transformers.models.lxmert import modeling_lxmert as huggingface

from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering


def test_row_5_embeddings_without_segments():
    ours, theirs = both(LxmertModel)
    ids = make_batch(ours.config)["input_ids"]
    wanted = theirs.embeddings(ids, torch.zeros_like(ids))
    assert_close(embed_text(ours, ids), wanted)
    with pytest.raises(AttributeError, match="position_ids"):
        theirs.embeddings(ids)


def test_row_12_attentions_on_in_the_config_and_off_in_the_call():
    config = make_config(output_attentions=True, output_hidden_states=True)
    ours, theirs = both(LxmertModel, config)
    batch = make_batch(config)
    for name in ("language_attentions", "cross_encoder_attentions", "cross_encoder_vision_attentions"):
        assert len(ours(**batch)[name]) == 2
    off = ours(**batch, output_attentions=False, output_hidden_states=False)
    assert list(off) == ["language_output", "vision_output", "pooled_output"]
    with pytest.raises(IndexError):
        theirs(**batch, output_attentions=False)


LAYERS = [
    {"r_layers": 0, "x_layers": 0},
    {"l_layers": 0, "x_layers": 0},
    {"l_layers": 0, "r_layers": 0, "x_layers": 0},
    {"l_layers": 0},
    {"r_layers": 0},
    {"x_layers": 0},
]


@pytest.mark.parametrize("layers", LAYERS, ids=str)
def test_row_14_encoders_without_layers(layers: dict[str, int]):
    model = scatter(LxmertForPreTraining(make_config(**layers)))
    config = model.config
    output = model(**make_batch(config), **pretraining_labels(config), output_hidden_states=True)
    assert len(output.language_hidden_states or ()) == config.l_layers + config.x_layers
    assert len(output.vision_hidden_states or ()) == config.r_layers + config.x_layers
    output.loss.backward()
    assert all(g is not None and g.isfinite().all() for g in gradients(model).values())


def test_row_14_without_any_layer_the_outputs_are_the_embeddings():
    model = scatter(LxmertModel(make_config(**LAYERS[2]))).eval()
    batch = make_batch(model.config)
    output = model(**batch)
    text = embed_text(model, batch["input_ids"], batch.get("token_type_ids"))
    assert torch.equal(output.language_output, text)
    visual = model.encoder.visn_fc(batch["visual_feats"], batch["visual_pos"])
    assert torch.equal(output.vision_output, visual)
    with pytest.raises(IndexError):
        huggingface.LxmertModel(make_config(**LAYERS[2]))(**batch)


def test_row_15_word_vectors_with_object_labels():
    ours, theirs = both(LxmertForPreTraining)
    call = make_batch(ours.config) | pretraining_labels(ours.config)
    wanted = ours(**call)
    call["inputs_embeds"] = ours.lxmert.embeddings.word_embeddings(call.pop("input_ids"))
    assert torch.equal(ours(**call).loss, wanted.loss)
    with pytest.raises(AttributeError, match="device"):
        theirs(**call)


def test_row_16_no_question_answering_task():
    """The answer scores are an empty row a pair, not a number without meaning."""
    config = make_config(task_qa=False)
    ours, theirs = both(LxmertForPreTraining, config)
    call = make_batch(config) | pretraining_labels(config)
    found, wanted = ours(**call), theirs(**call)
    assert found.question_answering_score.shape == (B, 0)
    assert wanted.question_answering_score.dim() == 0
    assert list(found.losses) == ["mask_lm", "matched", "obj", "attr", "feat"]
    assert_close(found.loss, wanted.loss.squeeze())
    assert ours.get_qa_logit_layer() is None
    assert ours.resize_num_qa_labels(5) is None


@pytest.mark.parametrize(
    "off",
    [
        {"task_mask_lm": False},
        {"task_matched": False},
        {"task_obj_predict": False},
        {"visual_obj_loss": False},
        {"visual_attr_loss": False, "visual_feat_loss": False},
        {"task_mask_lm": False, "task_matched": False, "task_obj_predict": False, "task_qa": False},
    ],
    ids=str,
)
def test_rows_6_and_16_any_task_may_be_off(off: dict[str, bool]):
    """The original raises KeyError when a visual task is off."""
    config = make_config(**off)
    model = scatter(LxmertForPreTraining(config))
    output = model(**make_batch(config), **pretraining_labels(config))
    gone = {
        *(name.removeprefix("task_") for name in off if name.startswith("task_")),
        *(name.split("_")[1] for name in off if name.startswith("visual_")),
    }
    if "obj_predict" in gone:
        gone |= {"obj", "attr", "feat"}
    assert set(output.losses) == {"mask_lm", "matched", "obj", "attr", "feat", "qa"} - gone
    assert_close(output.loss, sum(output.losses.values(), torch.zeros(())), tolerance=1e-6)


class TestRow17:
    """Another vocabulary."""

    def resized(self, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        model = scatter(LxmertForPreTraining(make_config())).eval()
        before = {name: x.clone() for name, x in model.state_dict().items()}
        model.resize_token_embeddings(*arguments, mean_resizing=False, **options)
        return model, before

    @pytest.mark.parametrize(
        ("new", "multiple", "size"),
        [(120, None, 120), (100, 16, 112), (50, None, 50), (None, 64, 128), (97, None, 97)],
    )
    def test_embedding_decoder_and_bias_stay_together(self, new: int | None, multiple: int | None, size: int):
        model, before = self.resized(new, pad_to_multiple_of=multiple)
        head, words = model.cls.predictions, model.lxmert.embeddings.word_embeddings
        assert head.decoder.weight is words.weight
        assert words.weight.shape == (size, 64)
        assert head.bias.shape == (size,)
        assert model.config.vocab_size == size
        kept = min(size, 97)
        assert torch.equal(words.weight[:kept], before["lxmert.embeddings.word_embeddings.weight"][:kept])
        assert torch.equal(head.bias[:kept], before["cls.predictions.bias"][:kept])
        assert not head.bias[kept:].any()
        call = make_batch(make_config(vocab_size=min(50, size))) | {
            "labels": torch.ones(B, T, dtype=torch.int64)
        }
        output = model(**call)
        assert output.prediction_logits.shape == (B, T, size)
        output.loss.backward()
        assert head.bias.grad.shape == (size,)

    def test_scores_of_old_words_are_unchanged(self):
        model, _ = self.resized(130)
        batch = make_batch(make_config())
        wanted = scatter(LxmertForPreTraining(make_config())).eval()(**batch).prediction_logits
        assert_close(model(**batch).prediction_logits[..., :97], wanted)

    def test_none_changes_nothing(self):
        model, before = self.resized(None)
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())

    def test_transformers(self):
        theirs = huggingface.LxmertForPreTraining(make_config())
        with pytest.raises(TypeError):
            theirs.resize_token_embeddings(None)
        theirs.resize_token_embeddings(100, pad_to_multiple_of=16)
        with pytest.raises(RuntimeError, match="size of tensor"):
            theirs(**make_batch(make_config()))


@pytest.mark.parametrize("kind", [LxmertForPreTraining, LxmertForQuestionAnswering])
@pytest.mark.parametrize("answers", [5, 40])
def test_another_number_of_answers(kind: Any, answers: int):
    model, theirs = both(kind)
    batch, kept = make_batch(model.config), min(answers, 11)
    name = "question_answering_score"
    wanted = model(**batch)[name][:, :kept]
    assert model.resize_num_qa_labels(None) is model.get_qa_logit_layer()
    layer = model.resize_num_qa_labels(answers)
    assert layer is model.get_qa_logit_layer()
    theirs.resize_num_qa_labels(answers)
    assert model(**batch)[name].shape == theirs(**batch)[name].shape == (B, answers)
    assert_close(model(**batch)[name][:, :kept], wanted)
    assert model.config.num_qa_labels == answers
    assert not layer.bias[kept:].any()


@pytest.mark.parametrize("kind", [LxmertModel, LxmertForPreTraining, LxmertForQuestionAnswering])
def test_row_19_sdpa(kind: Any):
    """Outputs and gradients are compared in test_parity_huggingface.py."""
    model = kind._from_config(make_config(), attn_implementation="sdpa")
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        getattr(huggingface, kind.__name__)._from_config(make_config(), attn_implementation="sdpa")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_row_19_activation_checkpointing():
    model, theirs = both(LxmertForPreTraining)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    with pytest.raises(ValueError, match=r"does not support (gradient|activation) checkpointing"):
        theirs.gradient_checkpointing_enable()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_row_20_features_are_cast_to_the_model(dtype: torch.dtype):
    ours, theirs = both(LxmertForPreTraining)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    batch = make_batch(ours.config)
    cast = batch | {name: batch[name].to(dtype) for name in ("visual_feats", "visual_pos")}
    with torch.no_grad():
        output = ours(**batch)
        assert output.prediction_logits.dtype is dtype
        assert output.prediction_logits.isfinite().all()
        assert torch.equal(output.prediction_logits, ours(**cast).prediction_logits)
    with pytest.raises(RuntimeError, match="dtype"):
        theirs(**batch)


def test_row_4_padding_rows_start_as_either_code_base_has_them():
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")

    def rows(config: LxmertConfig) -> list[torch.Tensor]:
        torch.manual_seed(0)
        embeddings = LxmertModel(config).embeddings
        return [getattr(embeddings, name).weight[0] for name in names]

    assert not any(row.any() for row in rows(make_config()))
    for row in rows(make_config(random_padding_rows=True, hidden_size=512)):
        assert row.std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("random_padding_rows", [False, True])
def test_traps_1_and_6_no_gradient_to_position_and_segment_row_zero(random_padding_rows: bool):
    """The lookup never trains them; the word row is trained through the tied decoder."""
    model = scatter(LxmertForPreTraining(make_config(random_padding_rows=random_padding_rows)))
    model(**make_batch(model.config), **pretraining_labels(model.config)).loss.backward()
    embeddings = model.lxmert.embeddings
    assert not embeddings.position_embeddings.weight.grad[0].any()
    assert not embeddings.token_type_embeddings.weight.grad[0].any()
    assert embeddings.position_embeddings.weight.grad[1].any()
    assert embeddings.word_embeddings.weight.grad[0].any()
