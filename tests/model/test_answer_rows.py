"""From pre-training's answers to a data set's: the original's --loadLXMERTQA (reference 4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import make_config, scatter
from checkpoint_files import assert_equal_weights

from lxmert_fast.checkpoint import load_answer_rows
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForPreTraining, LxmertForQuestionAnswering

TABLE = ("yes", "no", "2", "blue", "dog")
LABELS = ("", "Two", "the dog", "purple", "yes")


def models() -> tuple[Any, Any]:
    sizes = {"hidden_size": 128, "num_attention_heads": 2}
    source = scatter(LxmertForPreTraining(make_config(**sizes, num_qa_labels=5)))
    target = scatter(LxmertForQuestionAnswering(make_config(**sizes, num_qa_labels=5)), seed=9)
    return source, target


def test_rows_go_by_normalised_name():
    source, target = models()
    done = load_answer_rows(target, source.state_dict(), TABLE, LABELS)
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


@pytest.mark.parametrize(
    ("task", "copied", "some_zeroed"), [("vqa", 3124, ("", "visilab", "1 world")), ("gqa", 1736, ("snakes",))]
)
def test_hits_of_the_originals_tables(
    task: str, copied: int, some_zeroed: tuple[str, ...], shared_data: Path
):
    folder = shared_data / "lxmert"
    table = [row["ans"] for row in json.loads((folder / "lxmert_all_ans.json").read_text())]
    labels = json.loads((folder / f"{task}_trainval_label2ans.json").read_text())
    source = scatter(LxmertForPreTraining(make_config(num_qa_labels=len(table))))
    target: Any = LxmertForQuestionAnswering(make_config(num_qa_labels=len(labels)))
    done = load_answer_rows(target, source.state_dict(), table, labels)
    assert done.copied == copied
    assert set(some_zeroed) <= set(done.zeroed)
    rows = [labels.index("yes"), labels.index("no")]
    wanted = source.state_dict()["answer_head.logit_fc.3.weight"][[table.index("yes"), table.index("no")]]
    assert torch.equal(target.answer_head.logit_fc[3].weight[rows], wanted)


def test_original_names_do_too():
    source, target = models()
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    assert load_answer_rows(target, state, TABLE, LABELS).copied == 3


def test_lists_of_another_length():
    source, target = models()
    with pytest.raises(InputError, match="4 answers named, the source's answer head has 5 rows"):
        load_answer_rows(target, source.state_dict(), TABLE[:4], LABELS)
    with pytest.raises(InputError, match="6 answers named, the model's answer head has 5 rows"):
        load_answer_rows(target, source.state_dict(), TABLE, (*LABELS, "x"))


def test_source_without_an_answer_head():
    source, target = models()
    with pytest.raises(InputError, match="no answer head"):
        load_answer_rows(target, source.lxmert.state_dict(), TABLE, LABELS)
