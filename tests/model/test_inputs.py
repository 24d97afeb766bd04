"""A batch that does not fit gets one line that names the argument, before the first layer runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import B, O, T, image_pairs_model, make_batch, make_config, scatter
from transformers import LxmertConfig

from lxmert_fast.errors import InputError
from lxmert_fast.modeling import LxmertModel
from lxmert_fast.models import LxmertForImagePairs, LxmertForQuestionAnswering


@pytest.fixture(scope="module")
def model() -> Any:
    return scatter(LxmertForQuestionAnswering(make_config())).eval()


def ids(shape: tuple[int, ...], **at: int) -> torch.Tensor:
    """Ones, with a value in the second row's third place."""
    tensor = torch.ones(shape, dtype=torch.int64)
    tensor[1, 2] = at["value"]
    return tensor


BAD = {
    "index of another type": (
        {"image_index": torch.zeros(B)},
        r"image_index is torch.float32 of shape \(4,\), wanted torch.int64 of \(B,\)",
    ),
    "index of another shape": (
        {"text_index": torch.zeros(B, 1, dtype=torch.int64)},
        r"text_index is torch.int64 of shape \(4, 1\), wanted torch.int64 of \(B,\)",
    ),
    "index on another device": (
        {"image_index": torch.zeros(B, dtype=torch.int64, device="meta")},
        "image_index is on meta, wanted cpu, where the texts are",
    ),
    "an image that no pair uses": (
        {"image_index": torch.tensor([0, 1, 1, 0])},
        "image_index names 2 of 4 images: no pair uses image 2 and 1 more",
    ),
    "a text that no pair uses": (
        {"text_index": torch.tensor([0, 1, 2, 2])},
        "text_index names 3 of 4 texts: no pair uses text 3",
    ),
    "no features": ({"visual_feats": None}, "visual_feats is None"),
    "no boxes": ({"visual_pos": None}, "visual_pos is None"),
    "other feature size": (
        {"visual_feats": torch.zeros(B, O, 21)},
        r"visual_feats has shape \(4, 6, 21\), wanted \(4, 6, 20\)",
    ),
    "features of one image": (
        {"visual_feats": torch.zeros(O, 20)},
        r"visual_feats has shape \(6, 20\), wanted \(any, any, 20\)",
    ),
    "other number of boxes": (
        {"visual_pos": torch.zeros(B, O - 1, 4)},
        r"visual_pos has shape \(4, 5, 4\), wanted \(4, 6, 4\)",
    ),
    "five numbers a box": ({"visual_pos": torch.zeros(B, O, 5)}, r"\(4, 6, 5\), wanted \(4, 6, 4\)"),
    "mask of another length": (
        {"attention_mask": torch.ones(B, T + 1)},
        r"attention_mask has shape \(4, 10\), wanted \(4, 9\)",
    ),
    "visual mask of another length": (
        {"visual_attention_mask": torch.ones(B, T)},
        r"visual_attention_mask has shape \(4, 9\), wanted \(4, 6\)",
    ),
    "segments of another length": (
        {"token_type_ids": torch.zeros(B, 1, dtype=torch.int64)},
        r"token_type_ids has shape \(4, 1\), wanted \(4, 9\)",
    ),
    "id beyond the vocabulary": (
        {"input_ids": ids((B, T), value=97)},
        r"input_ids\[1, 2\] is 97, wanted 0 to 96",
    ),
    "negative id": ({"input_ids": ids((B, T), value=-1)}, r"input_ids\[1, 2\] is -1, wanted 0 to 96"),
    "segment beyond two": (
        {"token_type_ids": ids((B, T), value=2)},
        r"token_type_ids\[1, 2\] is 2, wanted 0 to 1",
    ),
    "text too long": (
        {"input_ids": torch.ones(B, 17, dtype=torch.int64), "token_type_ids": None},
        "texts have 17 positions, the model has embeddings for 16",
    ),
    "more texts than images": (
        {"input_ids": torch.ones(B + 1, T, dtype=torch.int64), "token_type_ids": None},
        "texts give 5 pairs and images give 4: pass image_index",
    ),
    "ids and vectors": ({"inputs_embeds": torch.zeros(B, T, 64)}, "either input_ids or inputs_embeds"),
    "neither ids nor vectors": ({"input_ids": None}, "either input_ids or inputs_embeds"),
    "image index beyond the images": (
        {"image_index": torch.tensor([0, 1, 4, 0])},
        r"image_index\[2\] is 4, wanted 0 to 3",
    ),
    "text index beyond the texts": (
        {"text_index": torch.tensor([0, 1, 2, -1])},
        r"text_index\[3\] is -1, wanted 0 to 3",
    ),
    "indices of different lengths": (
        {"image_index": torch.tensor([0, 1, 1]), "text_index": torch.tensor([0, 1])},
        "texts give 2 pairs and images give 3",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_batches(model: Any, name: str):
    changes, line = BAD[name]
    with pytest.raises(InputError, match=line) as caught:
        model(**(make_batch(model.config) | changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"visual_feats": torch.zeros(B, O, 20)}, r"wanted \(B, 2, O, 20\): two images a sentence"),
        ({"visual_feats": torch.zeros(B, 3, O, 20)}, "two images a sentence"),
        ({"visual_pos": None}, "visual_feats and visual_pos"),
        ({"image_index": torch.tensor([0, 1, 2, 3])}, r"image_index has shape \(4,\), wanted \(B, 2\)"),
    ],
)
def test_bad_image_pairs(changes: dict[str, Any], line: str):
    model = image_pairs_model(make_config())
    batch = {
        "input_ids": torch.ones(B, T, dtype=torch.int64),
        "visual_feats": torch.zeros(B, 2, O, 20),
        "visual_pos": torch.zeros(B, 2, O, 4),
    }
    with pytest.raises(InputError, match=line):
        model(**(batch | changes))


def test_heads_that_do_not_divide_the_hidden_size():
    with pytest.raises(InputError, match="hidden_size 64 is not a multiple of num_attention_heads 5"):
        LxmertModel(make_config(num_attention_heads=5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_features_of_any_float_dtype(model: Any, dtype: torch.dtype):
    """Region files hold fp16; the model casts."""
    batch = make_batch(model.config)
    rounded = {name: batch[name].to(dtype) for name in ("visual_feats", "visual_pos")}
    wanted = model(**(batch | {name: tensor.float() for name, tensor in rounded.items()}))
    found = model(**(batch | rounded))
    assert torch.equal(found.question_answering_score, wanted.question_answering_score)


def test_one_pair_one_token_one_object(model: Any):
    batch = make_batch(model.config, pairs=1, tokens=1, objects=1)
    assert model(**batch).question_answering_score.shape == (1, 11)


def test_a_pair_does_not_see_its_neighbours(model: Any):
    """Row b of a batch is the batch of that row alone."""
    batch = make_batch(model.config)
    whole = model(**batch).question_answering_score
    alone = torch.cat(
        [
            model(**{name: x[b : b + 1] for name, x in batch.items()}).question_answering_score
            for b in range(B)
        ]
    )
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-5)


def test_masked_positions_do_not_matter(model: Any):
    """Neither a padding token's id nor a padding box's numbers reach the answer."""
    batch = make_batch(model.config)
    text, objects = torch.ones(B, T), torch.ones(B, O)
    text[:, 5:] = 0
    objects[:, 4:] = 0
    batch |= {"attention_mask": text, "visual_attention_mask": objects}
    other = {name: x.clone() for name, x in batch.items()}
    other["input_ids"][:, 5:] = 3
    other["visual_feats"][:, 4:] = 100.0
    other["visual_pos"][:, 4:] = -1.0
    assert torch.equal(model(**batch).question_answering_score, model(**other).question_answering_score)


def test_default_config_is_the_papers():
    config = LxmertConfig()
    with torch.device("meta"):
        sizes = {
            kind: sum(p.numel() for p in kind(config).parameters())
            for kind in (LxmertForImagePairs, LxmertModel)
        }
    assert sizes == {LxmertForImagePairs: 210_303_746, LxmertModel: 207_936_768}
