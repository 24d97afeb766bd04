"""BERT initialisation from a local folder or file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel, LxmertConfig

from lxmert_fast.bert import load_bert
from lxmert_fast.data.text import SPECIAL_TOKENS, TextEncoder
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

WORDS = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(45))]
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def text(tmp_path: Path) -> TextEncoder:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return TextEncoder(path, 12)


def bert(**changes: Any) -> BertModel:
    torch.manual_seed(1)
    config = BertConfig(**(SIZES | {"num_hidden_layers": 3, "max_position_embeddings": 40} | changes))
    return BertModel(config).eval()


def ours(kind: Any = LxmertForPreTraining, **changes: Any) -> Any:
    torch.manual_seed(2)
    sizes = {"l_layers": 2, "r_layers": 1, "x_layers": 1, "max_position_embeddings": 12}
    return kind(LxmertConfig(**(SIZES | sizes | changes))).eval()


def test_the_language_encoder_computes_what_bert_computes(text: TextEncoder, tmp_path: Path):
    theirs = bert()
    theirs.save_pretrained(tmp_path / "bert")
    model = ours()
    before = model.lxmert.encoder.x_layers[0].visual_attention.att.query.weight.clone()
    summary = load_bert(model, tmp_path / "bert", text)
    # 5 of the embeddings, 16 a layer, 2 of the pooler
    assert len([name for name in summary.matched if name.startswith("lxmert.")]) == 5 + 2 * 16 + 2
    assert torch.equal(before, model.lxmert.encoder.x_layers[0].visual_attention.att.query.weight)
    ids = torch.tensor([[2, 7, 8, 9, 3]])
    with torch.no_grad():
        wanted = theirs(ids, output_hidden_states=True).hidden_states[2]
        found = model.lxmert(
            ids, torch.zeros(1, 2, 2048), torch.zeros(1, 2, 4), output_hidden_states=True
        ).language_hidden_states[1]
    # fp32 through two layers: 1e-5 of the largest value, as everywhere
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_the_word_head_comes_along(text: TextEncoder, tmp_path: Path):
    torch.manual_seed(3)
    theirs = BertForPreTraining(BertConfig(**SIZES, num_hidden_layers=2, max_position_embeddings=40))
    torch.nn.init.normal_(theirs.cls.predictions.bias)
    theirs.save_pretrained(tmp_path / "bert")
    torch.save(theirs.state_dict(), tmp_path / "bert.bin")
    model, other = ours(), ours(LxmertForQuestionAnswering)
    load_bert(model, tmp_path / "bert", text)
    assert torch.equal(model.cls.predictions.bias, theirs.cls.predictions.bias)
    load_bert(other, tmp_path / "bert.bin", text)
    words = theirs.bert.embeddings.word_embeddings.weight
    assert torch.equal(other.lxmert.embeddings.word_embeddings.weight, words)
    assert torch.equal(model.cls.predictions.decoder.weight, words)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 64}, "config.json: hidden_size is 32, the model's is 64"),
        ({"num_attention_heads": 2}, "config.json: num_attention_heads is 4, the model's is 2"),
        ({"l_layers": 5}, "3 layers, model.l_layers wants 5"),
        ({"max_position_embeddings": 64}, "max_position_embeddings is 40, the model has 64"),
        ({"vocab_size": 60}, "config.json: vocab_size is 50, the model's is 60"),
    ],
)
def test_other_sizes_are_refused(changes: dict[str, int], says: str, text: TextEncoder, tmp_path: Path):
    bert().save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError) as error:
        load_bert(ours(**changes), tmp_path / "bert", text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_another_vocabulary_is_refused(text: TextEncoder, tmp_path: Path):
    bert().save_pretrained(tmp_path / "bert")
    (tmp_path / "bert/vocab.txt").write_text("\n".join([*WORDS[:-2], WORDS[-1], WORDS[-2]]))
    with pytest.raises(InputError, match="not the vocabulary of"):
        load_bert(ours(), tmp_path / "bert", text)


def test_what_is_not_bert_is_refused(text: TextEncoder, tmp_path: Path):
    ours().save_pretrained(tmp_path / "ours")
    with pytest.raises(InputError, match="model_type is 'lxmert', the model's is 'bert'"):
        load_bert(ours(), tmp_path / "ours", text)
    torch.save(ours().state_dict(), tmp_path / "ours.bin")
    with pytest.raises(InputError, match="no text-only BERT in it"):
        load_bert(ours(), tmp_path / "ours.bin", text)
    with pytest.raises(InputError, match="no such file"):
        load_bert(ours(), tmp_path / "nowhere", text)
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        load_bert(ours(), folder, text)
    (folder / "config.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="found list, wanted the configuration"):
        load_bert(ours(), folder, text)
