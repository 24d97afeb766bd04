"""`lxmert-fast verify`: a faithful checkpoint passes, and a difference anywhere does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from cases import make_config, scatter
from torch import Tensor, nn
from typer.testing import CliRunner

from lxmert_fast import verify as room
from lxmert_fast.checkpoint import save_airsplay, save_folder
from lxmert_fast.commands.verify import verify as command
from lxmert_fast.errors import InputError
from lxmert_fast.kernels.layout import Layout
from lxmert_fast.modeling import LxmertLayer, LxmertModel, LxmertXLayer, Meeting
from lxmert_fast.models import LxmertForImagePairs, LxmertForPreTraining, LxmertForQuestionAnswering
from lxmert_fast.verify import BATCHES, TOLERANCE, Difference, difference, verify

KINDS = [LxmertForPreTraining, LxmertForQuestionAnswering, LxmertForImagePairs, LxmertModel]


def write(
    folder: Path,
    kind: Any = LxmertForPreTraining,
    edit: Callable[[Any], Any] = lambda model: None,
    **sizes: Any,
) -> Path:
    model = scatter(kind(make_config(**sizes)))
    edit(model)
    save_folder(model, folder / "model")
    return folder / "model"


def run(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_is_within_tolerance(kind: Any, tmp_path: Path):
    seen: list[int] = []
    rows = verify(write(tmp_path, kind), progress=seen.append)
    assert [row for row in rows if not row.within] == []
    assert sum(seen) == len(BATCHES)
    names = {row.output for row in rows}
    wanted = {"weights", "gradient: cross value"}
    if kind is LxmertForPreTraining:
        wanted |= {"loss", "prediction logits", "question answering score", "cross relationship score"}
    if kind is not LxmertForImagePairs:
        wanted |= {"language hidden states", "vision attentions", "cross encoder attentions"}
    assert wanted <= names


def test_original_file(tmp_path: Path):
    save_airsplay(scatter(LxmertForPreTraining(make_config())), tmp_path / "model.pth")
    result = run(tmp_path / "model.pth", "--heads", 4)
    assert result.exit_code == 0, result.output
    assert "within tolerance" in result.output


def test_table_of_a_faithful_checkpoint(tmp_path: Path):
    result = run(write(tmp_path))
    assert result.exit_code == 0, result.output
    for word in ("weights", "loss", "absolute", "relative", "verdict", "ok"):
        assert word in result.output
    assert "OUT OF TOLERANCE" not in result.output
    assert "-0.0" not in result.output


def poison(name: str, value: float) -> Callable[[Any], None]:
    def edit(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter(name).view(-1)[0] = value

    return edit


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["lxmert.encoder.x_layers.0.visual_attention.att.value.bias", "cls.predictions.bias"]
)
def test_weights_that_are_not_finite_never_pass(name: str, value: float, tmp_path: Path):
    """Both implementations agree on not-a-number; that is no reason to pass."""
    folder = write(tmp_path, edit=poison(name, value))
    result = run(folder)
    assert result.exit_code == 1
    assert "OUT OF TOLERANCE" in result.output
    row = next(row for row in verify(folder) if row.output == "weights")
    assert (row.where, row.within) == (name, False)


def forget_text_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LxmertLayer.forward

    def forward(self: Any, x: Tensor, layout: Layout, *rest: Any, **named: Any) -> Any:
        return whole(self, x, replace(layout, mask=None), *rest, **named)

    monkeypatch.setattr(LxmertLayer, "forward", forward)


def forget_object_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LxmertXLayer.forward

    def forward(self: Any, rows: Tensor, meeting: Meeting, *rest: Any, **named: Any) -> Any:
        blind = meeting._replace(images=replace(meeting.images, mask=None))
        return whole(self, rows, blind, *rest, **named)

    monkeypatch.setattr(LxmertXLayer, "forward", forward)


def load_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = room.load_model

    def load(path: Path, **options: Any) -> Any:
        model = whole(path, **options)
        with torch.no_grad():
            model.lxmert.pooler.dense.bias.mul_(1.001)
        return model

    monkeypatch.setattr(room, "load_model", load)


@pytest.mark.parametrize(
    ("fault", "shows_in"),
    [
        (forget_text_mask, "prediction logits"),
        (forget_object_mask, "prediction logits"),
        (load_something_else, "weights"),
    ],
)
def test_a_fault_is_found(
    fault: Callable[[pytest.MonkeyPatch], None],
    shows_in: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    folder = write(tmp_path)
    fault(monkeypatch)
    outside = {row.output for row in verify(folder) if not row.within}
    assert shows_in in outside
    assert run(folder).exit_code == 1


def test_bad_checkpoints_are_input_errors(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        verify(tmp_path / "nothing")
    with pytest.raises(InputError, match="an encoder without layers"):
        verify(write(tmp_path, x_layers=0, r_layers=0))


def test_difference():
    one = torch.tensor([1.0, -4.0])
    assert difference(one, one) == (0.0, 0.0)
    assert difference(one, torch.tensor([1.0, -2.0])) == (2.0, 1.0)
    assert difference(one, torch.tensor([1.0, -2.0]), floor=8.0) == (2.0, 0.25)
    assert difference(torch.zeros(0), torch.zeros(0)) == (0.0, 0.0)
    nan = torch.tensor([1.0, float("nan")])
    assert difference(nan, nan)[1] == float("inf")
    assert difference(one, torch.zeros(3))[1] == float("inf")
    assert Difference("loss", "", 0.0, TOLERANCE).within
    assert not Difference("loss", "", 0.0, float("nan")).within
