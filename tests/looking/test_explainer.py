"""Attention in both directions is what the layers compute, and sums to 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import small_encoder
from small_models import QUESTION, write_model

from lxmert_fast.answering import Answerer
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError
from lxmert_fast.looking.explainer import Explainer, Explanation
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining

IMAGE = "image-0001"
#: float32 sums of a few terms, as everywhere in this package's comparisons.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def store(world: dict[str, Path]) -> RegionStore:
    return RegionStore(world["regions"])


@pytest.fixture(scope="module")
def explainer(world: dict[str, Path]) -> Explainer:
    return Explainer.from_pretrained(world["model"], world["pretrained"])


@pytest.fixture(scope="module")
def found(explainer: Explainer, store: RegionStore) -> Explanation:
    explainer.check(store)
    return explainer(QUESTION, IMAGE, store, top=3)


def test_rows_sum_to_one_in_both_directions(found: Explanation):
    assert found.words == ["[CLS]", "w1", "w2", "w3", "[UNK]", "[SEP]"]
    assert found.words_to_boxes.shape == (2, 4, 6, 7)
    assert found.boxes_to_words.shape == (2, 4, 7, 6)
    for weights in (found.words_to_boxes, found.boxes_to_words):
        np.testing.assert_allclose(weights.sum(-1), 1, **CLOSE)
        assert weights.std() > 0.01


def test_words_to_boxes_are_the_models_own(explainer: Explainer, store: RegionStore, found: Explanation):
    regions = store[IMAGE]
    ids = torch.tensor([[explainer.text.cls_id, 6, 7, 8, explainer.text.unk_id, explainer.text.sep_id]])
    output = explainer.model(
        ids, torch.from_numpy(regions.features), torch.from_numpy(regions.boxes), output_attentions=True
    )
    wanted = torch.stack(output.cross_encoder_attentions)[:, 0].detach().numpy()
    np.testing.assert_allclose(found.words_to_boxes, wanted, **CLOSE)


def test_boxes_to_words_are_plain_attention_over_the_layers_inputs(
    explainer: Explainer, store: RegionStore, found: Explanation
):
    regions, model = store[IMAGE], explainer.model
    ids = torch.tensor([[explainer.text.cls_id, 6, 7, 8, explainer.text.unk_id, explainer.text.sep_id]])
    states = model.lxmert(
        ids, torch.from_numpy(regions.features), torch.from_numpy(regions.boxes), output_hidden_states=True
    )
    first = len(model.lxmert.encoder.layer) - 1
    for number, layer in enumerate(model.lxmert.encoder.x_layers):
        text = states.language_hidden_states[first + number][0]
        objects = states.vision_hidden_states[len(model.lxmert.encoder.r_layers) - 1 + number][0]
        attention, heads = layer.visual_attention.att, model.config.num_attention_heads
        query = attention.query(objects).view(7, heads, -1).transpose(0, 1)
        key = attention.key(text).view(6, heads, -1).transpose(0, 1)
        wanted = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1).detach().numpy()
        np.testing.assert_allclose(found.boxes_to_words[number], wanted, **CLOSE)


def test_answers_are_the_answerers(world: dict[str, Path], found: Explanation):
    wanted = Answerer.from_pretrained(world["model"], world["regions"])(QUESTION, IMAGE, top=3)
    assert [answer.text for answer in found.answers] == [answer.text for answer in wanted]
    for mine, other in zip(found.answers, wanted, strict=True):
        assert mine.score == pytest.approx(other.score, abs=1e-5)


def test_each_word_is_hidden_in_turn(explainer: Explainer, store: RegionStore, found: Explanation):
    assert found.guesses is not None
    assert [len(guess) for guess in found.guesses] == [0, 3, 3, 3, 3, 0]
    regions, text = store[IMAGE], explainer.text
    ids = torch.tensor([[text.cls_id, 6, text.mask_id, 8, text.unk_id, text.sep_id]])
    output = explainer.words(ids, torch.from_numpy(regions.features), torch.from_numpy(regions.boxes))
    wanted = output.prediction_logits[0, 2].softmax(-1).topk(3)
    assert [guess.text for guess in found.guesses[2]] == [text.decode([token]) for token in wanted.indices]
    assert [guess.score for guess in found.guesses[2]] == pytest.approx(wanted.values.tolist(), abs=1e-5)


def test_a_pretraining_model_explains_itself(world: dict[str, Path], store: RegionStore):
    found = Explainer.from_pretrained(world["pretrained"])(QUESTION, IMAGE, store, top=11)
    assert sum(answer.score for answer in found.answers) == pytest.approx(1, abs=1e-5)
    assert found.guesses is not None


def test_a_question_answering_model_alone_guesses_nothing(world: dict[str, Path], store: RegionStore):
    assert Explainer.from_pretrained(world["model"])(QUESTION, IMAGE, store).guesses is None


def test_without_an_answer_head_there_are_no_answers(tmp_path: Path, store: RegionStore):
    folder = write_model(tmp_path / "words", LxmertForPreTraining, task_qa=False)
    assert Explainer.from_pretrained(folder)(QUESTION, IMAGE, store).answers == []


@pytest.mark.parametrize(
    ("question", "image", "words"),
    [
        ("  ", IMAGE, "the question is empty"),
        ("w1 \udcff", IMAGE, "not UTF-8"),
        ("w1", "nowhere", "'nowhere'"),
    ],
)
def test_what_cannot_be_explained(
    explainer: Explainer, store: RegionStore, question: str, image: str, words: str
):
    with pytest.raises(InputError, match=words):
        explainer(question, image, store)


def test_weights_that_are_not_finite_are_named(world: dict[str, Path], store: RegionStore):
    broken = Explainer.from_pretrained(world["model"])
    with torch.no_grad():
        broken.model.lxmert.encoder.x_layers[0].visual_attention.att.query.bias[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        broken("w1", IMAGE, store)


def test_models_that_do_not_fit(world: dict[str, Path], store: RegionStore, tmp_path: Path):
    pairs = write_model(tmp_path / "pairs", LxmertForImagePairs)
    with pytest.raises(InputError, match="a LxmertForImagePairs, wanted"):
        Explainer.from_pretrained(pairs)
    with pytest.raises(InputError, match="wanted a LxmertForPreTraining"):
        Explainer.from_pretrained(world["model"], world["model"])
    (world["model"] / "vocab.txt").rename(world["model"] / "gone")
    try:
        with pytest.raises(InputError, match=r"no vocab\.txt in it"):
            Explainer.from_pretrained(world["model"])
    finally:
        (world["model"] / "gone").rename(world["model"] / "vocab.txt")
    other = write_model(tmp_path / "other", LxmertForPreTraining)
    small_encoder(tmp_path)
    lines = (other / "vocab.txt").read_text().replace("w94", "elsewhere")
    (other / "vocab.txt").write_text(lines)
    with pytest.raises(InputError, match="another vocabulary than"):
        Explainer.from_pretrained(world["model"], other)
    wide = Explainer.from_pretrained(write_model(tmp_path / "wide", visual_feat_dim=16))
    with pytest.raises(InputError, match="16 numbers a feature"):
        wide.check(store)
