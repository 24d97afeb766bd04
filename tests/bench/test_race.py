"""A contender that is wrong has no speed; one that is missing says what is missing."""

from __future__ import annotations

import pytest
import torch

from lxmert_fast.bench.contenders import OURS_EAGER, REFERENCE, Inference, contenders, modes
from lxmert_fast.bench.parity import ParityError, require_parity, worst_difference
from lxmert_fast.bench.race import Race, Unavailable
from lxmert_fast.bench.workloads import WORKLOADS, batches, config_for, workload


def race_of(name, mode, *extra, names=(REFERENCE, OURS_EAGER)):
    chosen = workload(name).sized(8)
    config = config_for(chosen, tiny=True)
    drawn = batches(chosen, config, labels=mode == "step")
    return Race([*contenders(chosen, config, drawn, mode, names), *extra], say=lambda _: None)


CASES = [(name, mode) for name, chosen in WORKLOADS.items() for mode in modes(chosen)]


@pytest.mark.parametrize(("name", "mode"), CASES, ids="-".join)
def test_ours_equals_the_reference_and_is_timed(name, mode):
    race = race_of(name, mode)
    for _ in range(3):
        race.round()
    for row in (entry.to_json() for entry in race.entries.values()):
        assert len(row["seconds"]) == 3
        assert row["difference"] < 1e-5
        assert row["fault"] is None


class Wrong:
    """Scores that are a little off, at once or after a while."""

    name, tolerance, random = "wrong", 1e-5, False

    def __init__(self, right_calls: int) -> None:
        self.left = right_calls
        chosen = workload("vqa").sized(8)
        config = config_for(chosen, tiny=True)
        (self.right,) = contenders(chosen, config, batches(chosen, config), "inference", [REFERENCE])

    def prepare(self) -> None:
        self.right.prepare()

    def run(self):
        self.left -= 1
        return {name: x * (1.0 if self.left >= 0 else 1.001) for name, x in self.right.run().items()}

    check = run


@pytest.mark.parametrize("right_calls", [0, 1, 3], ids=["at once", "first round", "third round"])
def test_a_wrong_contender_has_no_speed(right_calls):
    race = race_of("vqa", "inference", Wrong(right_calls))
    for _ in range(4):
        race.round()
    row = race.entries["wrong"].to_json()
    assert row["failed"]
    assert "scores is 1.0e-03 of its largest value off" in row["fault"]
    assert not row.keys() & {"seconds", "median"}
    assert not any("ms" in line for line in race.lines() if line.startswith("wrong"))
    assert len(race.entries[OURS_EAGER].seconds) == 4


def test_a_step_whose_gradient_is_wrong_has_no_speed():
    (ours,) = [c for c in race_of("vqa", "step").running if c.name == OURS_EAGER]
    ours.name = "wrong"
    whole = ours.check
    ours.check = lambda: {name: x * 1.001 if "cross value" in name else x for name, x in whole().items()}
    race = race_of("vqa", "step", ours)
    race.round()
    assert "cross value" in race.entries["wrong"].fault
    assert not race.entries["wrong"].seconds


def test_a_missing_contender_is_no_failure():
    def build():
        raise Unavailable("no compiler here")

    race = race_of("vqa", "inference", Inference("absent", build, {}))
    race.round()
    row = race.entries["absent"].to_json()
    assert row["fault"] == "no compiler here"
    assert not row["failed"]


def test_a_fastest_round_needs_a_second_that_confirms_it():
    race = race_of("vqa", "inference")
    for seconds, settled in (([1.0], False), ([1.0, 2.0], False), ([2.0, 1.0, 3.0, 1.05], True)):
        for entry in race.entries.values():
            entry.seconds = list(seconds)
        assert race.settled is settled
    race.entries[OURS_EAGER].seconds = [1.0, 1.2, 1.2]
    assert not race.settled


def test_rounds_begin_with_another_contender_each_time():
    race = race_of("vqa", "inference")
    order = []
    for contender in race.running:
        run = contender.run
        contender.run = lambda name=contender.name, run=run: (order.append(name), run())[1]
    race.round()
    race.round()
    assert order == [REFERENCE, OURS_EAGER, OURS_EAGER, REFERENCE]


@pytest.mark.parametrize("found", [{}, {"scores": torch.tensor([torch.nan])}, {"scores": torch.ones(2)}])
def test_missing_values_nan_and_other_shapes_are_never_equal(found):
    with pytest.raises(ParityError):
        require_parity("x", found, {"scores": torch.ones(1)}, 1e9)


def test_small_gradients_are_held_against_a_thousandth_of_the_largest():
    wanted = {"pooler bias": torch.tensor([1.0]), "cross value": torch.tensor([1e-9])}
    found = {"pooler bias": torch.tensor([1.0]), "cross value": torch.tensor([2e-9])}
    assert worst_difference(found, wanted) == ("cross value", pytest.approx(1e-6))
