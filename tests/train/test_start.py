"""Where training starts from: a model that does not fit its data is named, answer rows are the file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import make_config
from checkpoint_files import original
from region_files import random_image, write_images
from small_data import aggregated, known_store, small_encoder, write_json

from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError
from lxmert_fast.inputs import check_fits
from lxmert_fast.models import LxmertForPreTraining
from lxmert_fast.train.finetuning import AnswerTask
from lxmert_fast.train.pretraining import pretrain
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, check_settings

# what `known_store` and `small_encoder` hold
FITTING: dict[str, Any] = {
    "vocab_size": 100, "visual_feat_dim": 4, "num_object_labels": 50, "num_attr_labels": 20,
}  # fmt: skip
OTHER = {
    "larger features": ("visual_feat_dim", 5, "a model of 5 numbers a feature", "has 4"),
    "smaller features": ("visual_feat_dim", 3, "a model of 3 numbers a feature", "has 4"),
    "more object classes": ("num_object_labels", 51, "a model of 51 object classes", "has 50"),
    "fewer object classes": ("num_object_labels", 49, "a model of 49 object classes", "has 50"),
    "more attribute classes": ("num_attr_labels", 21, "a model of 21 attribute classes", "has 20"),
    "fewer attribute classes": ("num_attr_labels", 19, "a model of 19 attribute classes", "has 20"),
}
CLASSES = [case for case in OTHER if "classes" in case]
LOSSES = {"num_object_labels": "visual_obj_loss", "num_attr_labels": "visual_attr_loss"}
TABLE = ("yes", "no", "2", "blue", "dog")
LABELS = ("", "Two", "the dog", "purple", "yes")


@pytest.fixture
def store(tmp_path: Path) -> RegionStore:
    return known_store(tmp_path, [2, 3, 2])


def test_what_fits_passes(tmp_path: Path, store: RegionStore):
    check_fits(make_config(**FITTING), small_encoder(tmp_path), store, "source", object_labels=True)


@pytest.mark.parametrize("case", OTHER)
def test_another_size_names_model_and_files(tmp_path: Path, case: str):
    """One line: where the model is from, its size, every region file and theirs."""
    key, size, model_has, store_has = OTHER[case]
    first, second = known_store(tmp_path, [2]).paths[0], tmp_path / "more.h5"
    write_images(second, [random_image(seed=1, boxes=2, features=4, dtype=np.float16)])
    config, text = make_config(**FITTING | {key: size}), small_encoder(tmp_path)
    with pytest.raises(InputError) as caught:
        check_fits(config, text, RegionStore(first, second), "models/x", object_labels=True)
    assert str(caught.value) == f"models/x: {model_has}, {first}, {second} {store_has}"


@pytest.mark.parametrize("case", CLASSES)
def test_classes_matter_only_where_they_are_learnt(tmp_path: Path, store: RegionStore, case: str):
    """Neither a model that answers questions nor one without that loss reads the regions' classes."""
    key, size, _, _ = OTHER[case]
    sizes, text = FITTING | {key: size}, small_encoder(tmp_path)
    check_fits(make_config(**sizes), text, store, "source")
    check_fits(make_config(**sizes, **{LOSSES[key]: False}), text, store, "source", object_labels=True)
    (other,) = set(LOSSES.values()) - {LOSSES[key]}
    with pytest.raises(InputError, match="classes"):
        check_fits(make_config(**sizes, **{other: False}), text, store, "source", object_labels=True)


def test_another_vocabulary(tmp_path: Path, store: RegionStore):
    with pytest.raises(InputError, match=r"vocab\.txt.*100 tokens.* 99 rows"):
        check_fits(make_config(**FITTING | {"vocab_size": 99}), small_encoder(tmp_path), store, "source")


@pytest.mark.parametrize("case", OTHER)
def test_pretraining_from_a_model_that_does_not_fit(tmp_path: Path, store: RegionStore, case: str):
    """Before the first batch, where it would be an IndexError; nothing is written but the tokenised words."""
    key, size, model_has, store_has = OTHER[case]
    source, out = tmp_path / "source", tmp_path / "out"
    config = make_config(**FITTING | {key: size, "num_qa_labels": 2})
    LxmertForPreTraining(config).save_pretrained(source)
    settings = {
        "model": {"start_from": source},
        "data": {
            "train": [write_json(tmp_path / "train.json", aggregated(3, 1, 1))],
            "regions": list(store.paths),
            "vocabulary": small_encoder(tmp_path).vocabulary,
        },
        "optimisation": {"batch_size": 3},
        "run": {"output": out, "workers": 0, "device": "cpu"},
    }
    with pytest.raises(InputError) as caught:
        pretrain(check_settings(PretrainSettings, settings, "test"))
    assert str(caught.value) == f"{source}: {model_has}, {store.paths[0]} {store_has}"
    assert [path.name for path in out.iterdir()] == ["cache"]


def finetuning(folder: Path, store: RegionStore, **model: Any) -> FinetuneSettings:
    """One question of a data set that has the answers `LABELS`."""
    question = {"question_id": 1, "img_id": "i0", "sent": "w1 w2", "label": {"yes": 1.0}}
    data = {
        "train": write_json(folder / "train.json", [question]),
        "regions": list(store.paths),
        "vocabulary": small_encoder(folder).vocabulary,
        "answers": write_json(folder / "label2ans.json", LABELS),
    }
    run = {"output": folder / "out", "workers": 0, "device": "cpu"}
    return check_settings(FinetuneSettings, {"model": model, "data": data, "run": run}, "test")


def original_file(folder: Path) -> Path:
    """A pre-trained file of the original's, with an answer head of `TABLE`."""
    torch.save(original(**FITTING, num_qa_labels=len(TABLE)), folder / "start.pth")
    return folder / "start.pth"


def test_fine_tuning_from_an_original_file_takes_its_answer_rows(tmp_path: Path, store: RegionStore):
    """Answers that the table names, in the original's spelling, get its rows; the others get zeros."""
    source = original_file(tmp_path)
    table = [{"ans": answer, "dsets": ["vqa"]} for answer in TABLE]
    answers = write_json(tmp_path / "all_ans.json", table)
    task = AnswerTask(finetuning(tmp_path, store, start_from=source, start_answers=answers))
    content, head = torch.load(source), task.model.answer_head.logit_fc
    assert head[3].weight.shape == (len(LABELS), 256)
    for row, origin in enumerate((None, 2, 4, None, 0)):
        for part in ("weight", "bias"):
            found, given = head.get_parameter(f"3.{part}")[row], content[f"answer_head.logit_fc.3.{part}"]
            wanted = torch.zeros_like(given[0]) if origin is None else given[origin]
            assert torch.equal(found, wanted), (row, part)
    assert torch.equal(head[0].weight, content["answer_head.logit_fc.0.weight"])
    words = task.model.lxmert.embeddings.word_embeddings.weight
    assert torch.equal(words, content["bert.embeddings.word_embeddings.weight"])


def test_start_answers_that_are_not_there_are_named(tmp_path: Path, store: RegionStore):
    """A mistyped name must not start from a new answer head in silence."""
    settings = finetuning(
        tmp_path, store, start_from=original_file(tmp_path), start_answers=tmp_path / "no.json"
    )
    with pytest.raises(InputError, match=r"no\.json"):
        AnswerTask(settings)


def test_start_answers_of_another_head_are_named(tmp_path: Path, store: RegionStore):
    source, answers = original_file(tmp_path), write_json(tmp_path / "all.json", TABLE[:4])
    with pytest.raises(InputError, match=r"start\.pth: 4 answers named, the source's answer head has 5"):
        AnswerTask(finetuning(tmp_path, store, start_from=source, start_answers=answers))


def test_fine_tuning_from_a_file_that_does_not_fit(tmp_path: Path):
    """Features of another size, before the first batch."""
    known_store(tmp_path, [2])
    torch.save(original(**FITTING | {"visual_feat_dim": 5}), tmp_path / "start.pth")
    settings = finetuning(tmp_path, RegionStore(tmp_path / "regions.h5"), start_from=tmp_path / "start.pth")
    with pytest.raises(InputError, match=r"start\.pth: a model of 5 numbers a feature, .*regions\.h5 has 4"):
        AnswerTask(settings)
