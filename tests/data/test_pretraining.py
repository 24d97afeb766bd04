"""Pre-training batches: the original's semantics and rates; batches depend on nothing but their key.

Bounds are binomial at one in a million, seeds are fixed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_data import WORDS, aggregated, known_store, small_encoder, within, write_json

from lxmert_fast.data.answers import AnswerMap
from lxmert_fast.data.batches import Batch, BatchKey, EpochBatches, make_loader
from lxmert_fast.data.draws import Purpose, uniforms
from lxmert_fast.data.examples import Examples, read_examples
from lxmert_fast.data.masking import mask_objects
from lxmert_fast.data.pretraining import PretrainingDataset
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import Runs
from lxmert_fast.data.text import TextEncoder
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertConfig, LxmertForPreTraining
from lxmert_fast.pretraining_tasks import TASKS

ANSWERS = AnswerMap(["a0", "a1", "a2"])
WITHOUT_MATCHING = [name for name in TASKS if name != "matched"]


class World:
    """40 images of 2 to 6 boxes, each with 3 captions and 2 questions."""

    def __init__(self, folder: Path, counts: list[int] | None = None, entries: Any = None) -> None:
        counts = [2 + image % 5 for image in range(40)] if counts is None else counts
        self.counts = np.array(counts)
        self.store: RegionStore = known_store(folder, counts)
        self.text: TextEncoder = small_encoder(folder)
        path = write_json(folder / "e.json", entries or aggregated(len(counts), 3, 2))
        self.examples: Examples = read_examples([path], self.store, self.text, ANSWERS)

    def dataset(self, **options: Any) -> PretrainingDataset:
        return PretrainingDataset(self.examples, self.store, self.text, **{"seed": 11} | options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def whole_epochs(dataset: PretrainingDataset, epochs: int) -> list[tuple[np.ndarray, Batch]]:
    """Every example once an epoch, in one batch."""
    rows = np.arange(len(dataset))
    return [(rows, dataset[BatchKey(epoch, 0, rows)]) for epoch in range(epochs)]


def sentence_ids(world: World, rows: np.ndarray) -> torch.Tensor:
    width = int(world.examples.sentences.lengths(rows).max())
    return torch.from_numpy(world.examples.sentences.padded(rows, width)[0])


def test_nothing_hidden_is_the_data_itself(world: World) -> None:
    rows = np.array([3, 0, 199, 77, 3])
    dataset = world.dataset(word_mask_rate=0, object_mask_rate=0, tasks=WITHOUT_MATCHING)
    inputs = dataset[BatchKey(0, 0, rows)].inputs
    assert "matched_label" not in inputs
    assert torch.equal(inputs["input_ids"], sentence_ids(world, rows))
    assert torch.equal(inputs["attention_mask"], (sentence_ids(world, rows) != 0).long())
    assert (inputs["labels"] == -100).all()

    regions = world.store.read(world.examples.images[rows])
    assert inputs["visual_feats"].dtype == torch.float16
    np.testing.assert_array_equal(inputs["visual_feats"], regions.features)
    np.testing.assert_array_equal(inputs["visual_pos"], regions.boxes)
    np.testing.assert_array_equal(inputs["visual_attention_mask"], regions.mask)
    labels = inputs["obj_labels"]
    np.testing.assert_array_equal(labels["feat"][0], regions.features)
    assert (labels["feat"][1] == 0).all()
    np.testing.assert_array_equal(labels["obj"][0], regions.object_ids)
    np.testing.assert_array_equal(labels["attr"][0], regions.attribute_ids)
    # Label losses count on all objects, weighted by confidence, whatever is masked; padding weighs nothing.
    np.testing.assert_array_equal(labels["obj"][1], 0.5 * regions.mask)
    np.testing.assert_array_equal(labels["attr"][1], 0.25 * regions.mask)
    answered = inputs["ans"] >= 0
    assert answered.tolist() == [True, False, True, False, True]


def test_extras_and_names(world: World) -> None:
    batch = world.dataset()[BatchKey(0, 0, np.array([3, 0, 199]))]
    assert batch.example_ids == ["i0_vqa_000", "i0_mscoco_000", "i39_vqa_001"]
    assert batch.extras["categories"] == ["vqa", "mscoco", "vqa"]
    assert batch.extras["matched"].tolist() == (batch.inputs["matched_label"] == 1).tolist()


def test_mismatched_sentences(world: World) -> None:
    dataset = world.dataset(word_mask_rate=0, object_mask_rate=0)
    sentence_of = {tuple(world.examples.sentences[row].tolist()): row for row in range(len(world.examples))}
    assert len(sentence_of) == len(world.examples)
    drawn, mismatched, pairs = [], 0, 0
    for rows, batch in whole_epochs(dataset, 150):
        ids, mask = batch.inputs["input_ids"].numpy(), batch.inputs["attention_mask"].numpy()
        found = np.array([sentence_of[tuple(i[m == 1].tolist())] for i, m in zip(ids, mask, strict=True)])
        matched = batch.inputs["matched_label"].numpy() == 1
        assert (found[matched] == rows[matched]).all()
        images = world.examples.images
        assert (images[found[~matched]] != images[rows[~matched]]).all()
        assert (batch.inputs["ans"].numpy()[~matched] == -100).all()
        drawn += found[~matched].tolist()
        mismatched, pairs = mismatched + int((~matched).sum()), pairs + len(rows)
    assert within(mismatched, pairs, 0.5)
    # Images have five sentences each, so by symmetry every sentence is drawn equally often.
    assert chisquare(np.bincount(drawn, minlength=len(world.examples))).pvalue > 1e-6


def test_mismatches_are_uniform_over_sentences_not_images(tmp_path: Path) -> None:
    entries = [
        {"img_id": f"i{image}", "sentf": {"x": WORDS[9 * image : 9 * image + size]}, "labelf": {}}
        for image, size in enumerate((1, 1, 8))
    ]
    world = World(tmp_path, [1, 1, 1], entries)
    dataset = world.dataset(word_mask_rate=0, object_mask_rate=0)
    rows = np.zeros(20000, np.int64)
    batch = dataset[BatchKey(0, 0, rows)]
    words = batch.inputs["input_ids"][batch.inputs["matched_label"] == 0, 1]
    assert within(int((words == world.text.encode([WORDS[9]])[0][0, 1]).sum()), len(words), 1 / 9)


def test_word_rates_in_batches(world: World) -> None:
    dataset = world.dataset(tasks=WITHOUT_MATCHING)
    chosen = blanked = words = 0
    for rows, batch in whole_epochs(dataset, 60):
        original = sentence_ids(world, rows)
        labels, ids = batch.inputs["labels"], batch.inputs["input_ids"]
        hidden = labels != -100
        # [CLS] (2), [SEP] (3) and padding (0) are never hidden.
        assert not hidden[(original == 0) | (original == 2) | (original == 3)].any()
        assert torch.equal(ids[~hidden], original[~hidden])
        assert torch.equal(labels[hidden], original[hidden])
        chosen += int(hidden.sum())
        blanked += int((ids[hidden] == world.text.mask_id).sum())
        words += int((original >= 5).sum())
    assert within(chosen, words, 0.15)
    assert within(blanked, chosen, 0.8 + 0.1 / world.text.vocab_size)


def test_a_written_sep_can_be_hidden(tmp_path: Path) -> None:
    entries = [
        {"img_id": f"i{image}", "sentf": {"x": ["w1 [SEP] w2 [PAD]"]}, "labelf": {}} for image in range(2)
    ]
    world = World(tmp_path, [1, 1], entries)
    labels = world.dataset(word_mask_rate=1)[BatchKey(0, 0, np.array([0]))].inputs["labels"]
    assert labels.tolist() == [[-100, 6, 3, 7, 0, -100]]


def test_object_rates_and_donors(world: World) -> None:
    dataset = world.dataset()
    donors, boxes = [], []
    chosen = zero = real = 0
    for rows, batch in whole_epochs(dataset, 200):
        mask = batch.inputs["visual_attention_mask"].numpy() == 1
        target, feat_mask = (part.numpy() for part in batch.inputs["obj_labels"]["feat"])
        features = batch.inputs["visual_feats"].numpy()
        hidden = feat_mask == 1
        assert not hidden[~mask].any()
        assert (features[~mask] == 0).all()
        np.testing.assert_array_equal(features[~hidden], target[~hidden])
        np.testing.assert_array_equal(target, world.store.read(world.examples.images[rows]).features)
        other = hidden & (features[..., 2] != 0) & (features != target).any(2)
        donors += (features[other][:, 0] - 1).astype(int).tolist()
        boxes += (features[other][:, 1] - 1).astype(int).tolist()
        chosen += int(hidden.sum())
        zero += int((features[hidden] == 0).all(1).sum())
        real += int(mask.sum())
    assert within(chosen, real, 0.15)
    assert within(zero, chosen, 0.8)
    # A donor may be the object itself, which changes nothing: about 1 in 40 x 4 of 10 %.
    assert within(len(donors), chosen, 0.1 * (1 - (1 / 40) * np.mean(1 / world.counts)))
    assert (np.array(boxes) < world.counts[donors]).all()
    six = np.array(boxes)[world.counts[donors] == 6]
    assert chisquare(np.bincount(six, minlength=6)).pvalue > 1e-6
    assert chisquare(np.bincount(donors, minlength=40)).pvalue > 1e-6


def test_donors_follow_examples_and_come_from_the_training_set(tmp_path: Path) -> None:
    entries = aggregated(3, 1, 0)
    entries[2]["sentf"]["mscoco"] *= 8
    world = World(tmp_path, [2, 2, 2], entries)
    features = world.dataset()._random_features(np.random.default_rng(0).random((20000, 2)))
    assert within(int((features[:, 0] == 3).sum()), 20000, 0.8)
    path = write_json(tmp_path / "valid.json", aggregated(2, 1, 0))
    valid = read_examples([path], world.store, world.text, ANSWERS)
    dataset = PretrainingDataset(
        valid, world.store, world.text, seed=1, random_from=world.examples, object_mask_rate=1
    )
    found = dataset[BatchKey(0, 0, np.zeros(2000, np.int64))].inputs["visual_feats"][..., 0]
    assert (found == 3).any()


def test_label_losses_on_masked_objects_only(world: World) -> None:
    inputs = world.dataset(label_masked_only=True)[BatchKey(0, 0, np.arange(100))].inputs
    feat_mask = inputs["obj_labels"]["feat"][1]
    assert 0 < feat_mask.sum() < inputs["visual_attention_mask"].sum()
    assert torch.equal(inputs["obj_labels"]["obj"][1], 0.5 * feat_mask)
    assert torch.equal(inputs["obj_labels"]["attr"][1], 0.25 * feat_mask)


def test_answers_are_drawn_by_score(tmp_path: Path) -> None:
    entries = aggregated(2, 1, 1)
    entries[0]["labelf"]["vqa"] = [{"a0": 0.3, "a1": 0, "a2": 0.9}]
    entries[1]["labelf"]["vqa"] = [{}]
    world = World(tmp_path, [1, 1], entries)
    batch = world.dataset()[BatchKey(0, 0, np.arange(4).repeat(10000))]
    drawn, matched = batch.inputs["ans"].reshape(4, -1), batch.inputs["matched_label"].reshape(4, -1)
    assert (drawn[[0, 2, 3]] == -100).all()
    assert ((drawn[1] >= 0) == (matched[1] == 1)).all()
    labelled = drawn[1][drawn[1] >= 0]
    assert (labelled != 1).all()
    assert within(int((labelled == 2).sum()), len(labelled), 0.75)


def test_answers_of_matched_pairs_are_kept_for_accuracy(world: World) -> None:
    batch = world.dataset()[BatchKey(0, 0, np.arange(100))]
    pairs, classes, scores = batch.extras["answers"]
    matched = batch.inputs["matched_label"] == 1
    question = torch.tensor([category == "vqa" for category in batch.extras["categories"]])
    assert torch.equal(pairs.unique(), torch.nonzero(matched & question).squeeze(1))
    assert classes.reshape(-1, 2).tolist() == [[0, 1]] * int((matched & question).sum())
    assert scores.reshape(-1, 2).tolist() == [[1.0, 0.25]] * int((matched & question).sum())


def test_two_phase_schedule(world: World) -> None:
    dataset = world.dataset(answer_from_epoch=2)
    answered = [(batch.inputs["ans"] >= 0).any().item() for _, batch in whole_epochs(dataset, 4)]
    assert answered == [False, False, True, True]
    # The other draws are those of a run without the schedule.
    plain, rows = world.dataset(), np.arange(100)
    with_schedule, without = dataset[BatchKey(0, 0, rows)].inputs, plain[BatchKey(0, 0, rows)].inputs
    for name in ("input_ids", "labels", "visual_feats", "matched_label"):
        assert torch.equal(with_schedule[name], without[name])


def test_one_image_cannot_be_mismatched(tmp_path: Path) -> None:
    world = World(tmp_path, [3], aggregated(1, 4, 0))
    with pytest.raises(InputError, match="all 4 examples are of image 'i0'"):
        world.dataset()
    world.dataset(tasks=WITHOUT_MATCHING)[BatchKey(0, 0, np.arange(4))]


def test_equal_counts_need_no_visual_mask(tmp_path: Path) -> None:
    world = World(tmp_path, [3] * 4, aggregated(4, 2, 0))
    assert "visual_attention_mask" not in world.dataset()[BatchKey(0, 0, np.arange(8))].inputs


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in (key, *flat(value[key]))]
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, (tuple, list)) else [value]


def assert_same_batch(found: Batch, wanted: Batch) -> None:
    left, right = flat(tuple(found)), flat(tuple(wanted))
    assert len(left) == len(right)
    for one, two in zip(left, right, strict=True):
        if isinstance(one, torch.Tensor):
            assert one.dtype == two.dtype
            assert torch.equal(one, two)
        else:
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("limit", [1, 4])
def test_workers_and_resuming_change_nothing(world: World, limit: int) -> None:
    dataset = world.dataset(share_images=limit > 1)
    runs = Runs(world.examples.images, limit) if limit > 1 else None
    batches = EpochBatches(len(dataset), 32, seed=4, runs=runs)
    wanted = [dataset[key] for _ in range(2) for key in batches]
    assert not torch.equal(wanted[0].inputs["labels"], wanted[6].inputs["labels"])
    for workers in (0, 1, 2):
        order = EpochBatches(len(dataset), 32, seed=4, runs=runs)
        loader = make_loader(dataset, order, num_workers=workers)
        found = [batch for _ in range(2) for batch in loader]
        assert len(found) == len(wanted) == 12
        for one, two in zip(found, wanted, strict=True):
            assert_same_batch(one, two)
        order.set_position(1, 4)
        for one, two in zip(loader, wanted[10:], strict=True):
            assert_same_batch(one, two)


def by_place(key: BatchKey, batch: Batch) -> dict[int, list[np.ndarray]]:
    """All that a batch holds about each of its pairs, by its place in the epoch, without padding."""
    inputs, found = batch.inputs, {}
    index = inputs.get("image_index", torch.arange(len(key.rows)))
    flat_pairs, classes, scores = batch.extras["answers"]
    real_words, boxes = inputs["attention_mask"] == 1, inputs["visual_pos"]
    real_objects = inputs.get("visual_attention_mask", torch.ones(boxes.shape[:2])) == 1
    for pair, image in enumerate(index.tolist()):
        words, objects = real_words[pair], real_objects[image]
        of_objects = [inputs["visual_feats"], boxes]
        of_objects += [part for label in ("obj", "attr", "feat") for part in inputs["obj_labels"][label]]
        mine = flat_pairs == pair
        parts = [inputs[name][pair][words] for name in ("input_ids", "labels")]
        parts += [part[image][objects] for part in of_objects]
        parts += [inputs["ans"][pair], inputs["matched_label"][pair], classes[mine], scores[mine]]
        found[key.first + pair] = [np.array(key.rows[pair]), *(part.numpy() for part in parts)]
    return found


@pytest.mark.parametrize("limit", [1, 4])
def test_what_an_example_is_depends_on_no_cut(world: World, limit: int) -> None:
    """32 pairs an update: alone, on four ranks, on two ranks in two passes, and in five uneven pieces."""
    dataset = world.dataset(share_images=limit > 1)
    runs = Runs(world.examples.images, limit) if limit > 1 else None
    found = []
    for ranks, accumulation in ((1, 1), (4, 1), (2, 2), (5, 1)):
        places: dict[int, list[np.ndarray]] = {}
        for rank in range(ranks):
            cut: dict[str, Any] = {"rank": rank, "num_ranks": ranks, "accumulation": accumulation}
            batches = EpochBatches(len(dataset), 32, seed=4, runs=runs, **cut)
            batches.set_position(2)
            for key in batches:
                places |= by_place(key, dataset[key])
        found.append(places)
    assert sorted(found[0]) == list(range(192))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for place, parts in found[0].items():
            for one, two in zip(parts, other[place], strict=True):
                np.testing.assert_array_equal(one, two)


def test_seed_epoch_and_place_all_matter(world: World) -> None:
    rows = np.arange(100)
    keys = [(11, 0, 0), (12, 0, 0), (11, 1, 0), (11, 0, 1)]
    found = [
        world.dataset(seed=seed)[BatchKey(epoch, first, rows)].inputs["labels"] for seed, epoch, first in keys
    ]
    widest = max(labels.shape[1] for labels in found)
    padded = [torch.nn.functional.pad(labels, (0, widest - labels.shape[1]), value=-100) for labels in found]
    assert not any(torch.equal(padded[0], labels) for labels in padded[1:])


def small_model() -> LxmertForPreTraining:
    torch.manual_seed(0)
    config = LxmertConfig(
        vocab_size=100,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        l_layers=1,
        r_layers=1,
        x_layers=1,
        max_position_embeddings=20,
        visual_feat_dim=4,
        num_qa_labels=3,
        num_object_labels=50,
        num_attr_labels=20,
    )
    return LxmertForPreTraining(config).eval()


def test_a_model_takes_the_batch_and_trimming_is_exact(world: World) -> None:
    model = small_model()
    rows = np.arange(40)
    trimmed, padded = (world.dataset(trim=trim)[BatchKey(0, 0, rows)].inputs for trim in (True, False))
    width = trimmed["input_ids"].shape[1]
    assert width == trimmed["attention_mask"].sum(1).max() < padded["input_ids"].shape[1] == 20
    losses = []
    for inputs in (trimmed, padded):
        inputs["visual_feats"] = inputs["visual_feats"].float()
        with torch.no_grad():
            losses.append(model(**inputs).loss.item())
        for name in ("input_ids", "attention_mask", "labels"):
            inputs[name] = inputs[name][:, :width]
    assert_same_batch(Batch(trimmed, [], {}), Batch(padded, [], {}))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def counts_of(world: World, rows: np.ndarray) -> np.ndarray:
    return world.counts[world.examples.images[rows]]


def hidden_objects(inputs: dict[str, Any]) -> torch.Tensor:
    return inputs["obj_labels"]["feat"][1] == 1


def test_by_default_objects_are_drawn_for_each_pair(world: World) -> None:
    """From its own place in the epoch, repeated images or not."""
    dataset, rows = world.dataset(), np.repeat(np.arange(50), 2)
    inputs = dataset[BatchKey(3, 200, rows)].inputs
    draws = uniforms(11, 3, Purpose.OBJECTS, 200, (100, 6, 3))
    hidden = mask_objects(counts_of(world, rows), draws, rate=0.15, random_features=dataset._random_features)
    features = world.store.read(world.examples.images[rows]).features
    np.testing.assert_array_equal(hidden_objects(inputs), hidden.chosen)
    np.testing.assert_array_equal(inputs["visual_feats"], hidden.hide(features))
    assert "image_index" not in inputs


def test_pairs_of_an_image_share_its_hidden_objects_and_nothing_else(world: World) -> None:
    """Runs of four: I rows of all that is about objects, B of all the rest; as many hidden as ever."""
    dataset = world.dataset(share_images=True)
    batches = EpochBatches(200, 50, seed=2, runs=Runs(world.examples.images, 4))
    chosen = real = pairs = images = 0
    for key in [key for _ in range(40) for key in batches]:
        inputs = dataset[key].inputs
        index, hidden = inputs["image_index"], hidden_objects(inputs)
        pair_images = world.examples.images[key.rows]
        store_rows = pair_images[np.flatnonzero(np.diff(pair_images, prepend=-1))]
        np.testing.assert_array_equal(store_rows[index], pair_images)
        regions = world.store.read(store_rows)
        objects = {name: x for name, x in inputs.items() if name.startswith("visual")}
        assert {len(x) for x in objects.values()} == {len(store_rows)}
        np.testing.assert_array_equal(inputs["obj_labels"]["feat"][0], regions.features)
        np.testing.assert_array_equal(inputs["obj_labels"]["obj"][0], regions.object_ids)
        np.testing.assert_array_equal(inputs["obj_labels"]["attr"][1], 0.25 * regions.mask)
        assert torch.equal(inputs["visual_feats"][~hidden], inputs["obj_labels"]["feat"][0][~hidden])
        assert {len(inputs[name]) for name in ("input_ids", "labels", "ans", "matched_label")} == {50}
        chosen, real = chosen + int(hidden.sum()), real + int(regions.counts.sum())
        pairs, images = pairs + 50, images + len(store_rows)
    assert within(chosen, real, 0.15)
    assert 2 < pairs / images < 4


def test_words_answers_and_matching_are_drawn_for_each_pair(world: World) -> None:
    """One question 4,000 times in a batch: its objects are hidden once, all else as if it were 4,000."""
    rows = np.full(4000, 3)
    inputs = world.dataset(share_images=True)[BatchKey(0, 0, rows)].inputs
    assert len(inputs["visual_feats"]) == 1
    matched = inputs["matched_label"] == 1
    assert within(int(matched.sum()), 4000, 0.5)
    answers = inputs["ans"][matched]
    assert within(int((answers == 0).sum()), len(answers), 0.8)
    length = int(world.examples.sentences.lengths(rows[:1])[0])
    masked = inputs["labels"][matched, 1 : length - 1] >= 0
    assert all(within(int(column.sum()), len(masked), 0.15) for column in masked.T)


def test_different_images_are_the_plain_batch(world: World) -> None:
    rows = np.arange(199, 0, -5)
    shared = world.dataset(share_images=True)[BatchKey(1, 2, rows)]
    assert_same_batch(shared, world.dataset()[BatchKey(1, 2, rows)])


def test_a_model_takes_shared_images(world: World) -> None:
    """The loss is that of the same pairs written out."""
    model = small_model()
    inputs = world.dataset(share_images=True)[BatchKey(0, 0, np.arange(40))].inputs
    inputs["visual_feats"] = inputs["visual_feats"].float()
    written_out = dict(inputs)
    index = written_out.pop("image_index")
    for name in ("visual_feats", "visual_pos", "visual_attention_mask"):
        written_out[name] = inputs[name][index]
    written_out["obj_labels"] = {
        name: (target[index], weight[index]) for name, (target, weight) in inputs["obj_labels"].items()
    }
    with torch.no_grad():
        found, wanted = model(**inputs), model(**written_out)
    assert found.losses.keys() == wanted.losses.keys()
    for name, loss in wanted.losses.items():
        assert found.losses[name].item() == pytest.approx(loss.item(), rel=1e-5), name


def test_examples_without_answers(world: World) -> None:
    examples = world.examples
    empty = replace(
        examples,
        answers=replace(
            examples.answers,
            values=examples.answers.values[:0],
            offsets=np.zeros_like(examples.answers.offsets),
        ),
        scores=examples.scores[:0],
    )
    dataset = PretrainingDataset(empty, world.store, world.text, seed=0)
    assert (dataset[BatchKey(0, 0, np.arange(20))].inputs["ans"] == -100).all()
