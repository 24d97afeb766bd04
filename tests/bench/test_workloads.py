"""Batches have the lengths and the sharing of real data, and both sides of a batch mean the same."""

from __future__ import annotations

import pytest
import torch

from lxmert_fast.bench import count_texts
from lxmert_fast.bench.workloads import (
    HISTOGRAMS,
    WORKLOADS,
    batches,
    config_for,
    mean_length,
    text_lengths,
    workload,
)
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError

#: `shared/data/README.md`: mean and p90 of each text.
PUBLISHED = {"vqa": (9.46, 12), "gqa": (11.75, 16), "captions": (13.96, 17), "nlvr2": (16.12, 20)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_histograms_have_the_published_mean_and_p90(name):
    lengths = HISTOGRAMS[name]["lengths"]
    mean, p90 = PUBLISHED[name]
    assert count_texts.mean(lengths) == pytest.approx(mean, abs=0.005)
    assert count_texts.percentile(lengths, 0.9) == p90
    assert sum(lengths) == HISTOGRAMS[name]["texts"]


@pytest.mark.parametrize("name", ["gqa", "captions"])
def test_committed_counts_are_those_of_the_data(shared_data, name):
    encoder = TextEncoder(shared_data / "bert_vocab" / "vocab.txt")
    assert count_texts.count(count_texts.TEXTS[name](shared_data), encoder) == HISTOGRAMS[name]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_batch_has_the_mean_length_of_the_data(name):
    assert text_lengths(workload(name)).mean() == pytest.approx(mean_length(workload(name)), abs=0.1)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("labels", [False, True], ids=["scores", "labels"])
def test_both_batches_are_of_the_same_pairs(name, labels):
    chosen = workload(name)
    config = config_for(chosen, tiny=True)
    drawn = batches(chosen, config, labels=labels)
    ours, theirs = drawn.ours, drawn.huggingface
    texts = ours.get("text_index", torch.arange(len(ours["input_ids"])))
    images = ours.get("image_index", torch.arange(len(ours["visual_feats"])))
    width = ours["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask"):
        assert theirs[name].shape[1] == 20
        assert torch.equal(ours[name][texts], theirs[name][:, :width])
        assert not theirs[name][:, width:].any()
    for name in ("visual_feats", "visual_pos"):
        assert torch.equal(ours[name][images], theirs[name])
    for name in ours.keys() & {"ans", "matched_label"}:
        assert torch.equal(ours[name], theirs[name])
    if "obj_labels" in ours:
        assert torch.equal(ours["labels"], theirs["labels"][:, :width])
        assert len(theirs["obj_labels"]["feat"][0]) == chosen.pairs


def test_vqa_shares_images_and_captions_do_not():
    config = config_for(workload("vqa"), tiny=True)
    assert len(batches(workload("vqa"), config).ours["visual_feats"]) == 18  # 96 / 5.3
    assert "image_index" not in batches(workload("captions"), config, labels=True).ours
    assert len(batches(workload("captions4"), config, labels=True).ours["visual_feats"]) == 8


def test_masking_is_fifteen_percent():
    big = workload("captions").sized(512)
    config = config_for(big, tiny=True)
    inputs = batches(big, config, labels=True).huggingface
    words = inputs["attention_mask"].sum() - 2 * 512
    assert ((inputs["labels"] >= 0).sum() / words).item() == pytest.approx(0.15, abs=0.02)
    assert inputs["obj_labels"]["feat"][1].mean().item() == pytest.approx(0.15, abs=0.01)
    assert (inputs["ans"] >= 0).float().mean().item() == pytest.approx(0.155, abs=0.05)


def test_the_same_seed_gives_the_same_batch():
    config = config_for(workload("gqa"), tiny=True)
    one, same, other = (batches(workload("gqa"), config, seed=seed).ours for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: workload("coco"), "unknown workload 'coco', wanted one of vqa, gqa"),
        (lambda: workload("vqa").sized(0), "0 pairs"),
        (lambda: workload("nlvr2").sized(7), "even number"),
        (lambda: workload("vqa").sized(per_image=0.5), "sentences an image"),
    ],
    ids=["name", "no pair", "odd", "sharing"],
)
def test_what_is_no_workload_is_an_input_error(make, words):
    with pytest.raises(InputError, match=words):
        make()
