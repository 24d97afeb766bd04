"""Compiled code stays on the node: where it lies, who may have put it there, who compiles, who waits."""

from __future__ import annotations

import os
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import start_ranks, write_data
from test_loop import ToyTask, settings

from lxmert_fast import caches as places
from lxmert_fast.caches import CACHES, local_folder, user_folder
from lxmert_fast.doctor import machine
from lxmert_fast.errors import InputError
from lxmert_fast.models import LxmertForPreTraining
from lxmert_fast.train import launched, warm
from lxmert_fast.train.caches import once_a_host, use_local_caches
from lxmert_fast.train.ranks import Ranks
from lxmert_fast.train.settings import OptimisationSettings, PretrainSettings, ZeroSettings, check_settings

VARIABLES = [cache.variable for cache in CACHES]
CPU = torch.device("cpu")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary directory, and no variable."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    return tmp_path


def test_a_run_sets_what_nobody_has_set(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    # what PyTorch sets when it is imported
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(temporary / "torchinductor_me"))
    launched.launch(ToyTask(), *settings(temporary / "run"))
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"
    for name, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TORCH_EXTENSIONS_DIR", "extensions")):
        found = Path(os.environ[name])
        assert found == local_folder() / folder
        assert found.is_dir()
    assert user_folder().parent == temporary
    assert user_folder().stat().st_mode & 0o777 == 0o700


def test_the_doctor_names_the_same_places(temporary: Path) -> None:
    before = [(fact.name, fact.found) for fact in machine.caches()]
    use_local_caches()
    assert [(fact.name, fact.found) for fact in machine.caches()] == before
    for cache, (name, found) in zip(CACHES, before, strict=True):
        assert name == cache.name
        assert found is not None
        assert found.startswith(f"{os.environ[cache.variable]}, ")


def test_other_versions_have_another_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = local_folder()
    real = places.metadata.version
    for changed in ("torch", "triton", "lxmert-fast"):
        monkeypatch.setattr(
            places.metadata, "version", lambda name, changed=changed: real(name) + "9" * (name == changed)
        )
        assert local_folder() != mine
        assert local_folder().parent == mine.parent


def test_everything_is_placed_and_no_folder_is_made(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "/mine")
    use_local_caches()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("trap", ["link", "another user's"])
def test_a_folder_that_another_user_has_put_there(
    trap: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trap == "link":
        (temporary / "elsewhere").mkdir()
        user_folder().symlink_to(temporary / "elsewhere")
    else:
        uid = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(
        InputError, match=r"wanted one of user \d+; set TMPDIR, or TRITON_CACHE_DIR, TORCHIND"
    ):
        use_local_caches()
    assert os.environ["TRITON_CACHE_DIR"] == ""


class Told(Ranks):
    """One of two ranks of a host that writes down when it waits."""

    def __init__(self, local_rank: int) -> None:
        super().__init__(local_rank, 2, local_rank)
        self.order: list[str] = []

    def barrier(self) -> None:
        self.order.append("waits")

    def works(self) -> None:
        self.order.append("works")


@pytest.mark.parametrize(("local_rank", "order"), [(0, ["works", "waits"]), (1, ["waits"])])
def test_one_rank_of_a_host_works_and_the_others_wait(local_rank: int, order: list[str]) -> None:
    ranks = Told(local_rank)
    once_a_host(ranks, ranks.works)
    assert ranks.order == order
    once_a_host(ranks, None)
    assert ranks.order == [*order, "waits"]


def test_nobody_waits_for_a_rank_that_died(tmp_path: Path) -> None:
    """Local rank 0 is gone while it compiles: the other one knows it at once, long before the time limit."""
    program = tmp_path / "rank.py"
    program.write_text(
        textwrap.dedent("""
        import os, torch
        from lxmert_fast.errors import RanksLost
        from lxmert_fast.train.caches import once_a_host
        from lxmert_fast.train.ranks import join_ranks

        try:
            ranks = join_ranks(torch.device("cpu"), timeout=3600)
            ranks.barrier()  # the store of the meeting is rank 0's: both have met before it goes
            once_a_host(ranks, lambda: os._exit(9))
        except RanksLost as error:
            print(error)
            os._exit(3)
        """)
    )
    ranks = start_ranks(2, [str(program)])
    told = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [9, 3], told
    assert "rank 1 of 2" in told[1]


def test_who_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(stage: int, compile: bool) -> bool:
        how = OptimisationSettings(zero=ZeroSettings(stage=stage), compile=compile)
        return warm.compiles(how, CPU)

    assert [asked(1, False), asked(1, True), asked(3, True)] == [False, True, False]
    monkeypatch.setattr(warm, "use_operators", lambda x: True)
    assert [asked(0, False), asked(2, False), asked(3, False)] == [True, True, False]


@pytest.fixture
def stepping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A pre-training task that has been given to `take_a_step`; models that ran, and were compiled."""
    from lxmert_fast.data.batches import EpochBatches
    from lxmert_fast.train.pretraining import PretrainTask

    ran: list[LxmertForPreTraining] = []
    forward = LxmertForPreTraining.forward

    def noting(self: LxmertForPreTraining, *args: Any, **kwargs: Any) -> Any:
        ran.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LxmertForPreTraining, "forward", noting)
    compiled: list[Any] = []
    monkeypatch.setattr(warm, "compile_model", compiled.append)
    base = write_data(tmp_path) | {"run": {"output": str(tmp_path / "run")}}

    def step(**optimisation: Any) -> tuple[PretrainTask, list[LxmertForPreTraining], list[Any]]:
        tree = base | {"optimisation": {"batch_size": 8} | optimisation}
        found = check_settings(PretrainSettings, tree, "test")
        task = PretrainTask(found)
        before = {name: value.clone() for name, value in task.model.state_dict().items()}
        drawn = torch.get_rng_state()
        key = next(iter(EpochBatches(task.num_examples(), 8, seed=1, num_ranks=2)))
        warm.take_a_step(task, key, found.optimisation, CPU)
        assert torch.equal(torch.get_rng_state(), drawn)
        for name, value in task.model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(p.grad is None and p.requires_grad for p in task.model.parameters())
        return task, ran, compiled

    return step


@pytest.mark.parametrize(
    ("precision", "stage", "weights"),
    [("fp32", 1, torch.float32), ("bf16", 0, torch.float32), ("bf16", 2, torch.bfloat16)],
)
def test_a_step_in_a_copy(
    precision: str, stage: int, weights: torch.dtype, stepping: Callable[..., Any]
) -> None:
    """Forward and backward as the engine's will be, by itself: no process group is there to talk to."""
    task, ran, compiled = stepping(precision=precision, zero={"stage": stage})
    (model,) = ran
    assert model is not task.model
    assert compiled == []
    used = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in used} == {weights}
    assert sum(p.grad is not None for p in used) > len(used) / 2


def test_the_copy_is_compiled_and_forgotten_and_the_model_is_not(
    stepping: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[bool] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(True))
    task, ran, compiled = stepping(compile=True)
    assert compiled == ran
    assert task.model not in compiled
    assert forgotten == [True]
