"""`lxmert-fast features`: what it prints, what it writes, how it exits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from lxmert_fast.commands.features import app
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError


def run(*arguments: object) -> Result:
    """Runs the command; what is not an exit is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def tsv(shared_data: Path) -> Path:
    return shared_data / "rcnn_features/train2014_obj36.tsv"


def test_convert_check_show(tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    result = run("convert", tsv, out, "--dtype", "float32")
    assert result.exit_code == 0
    assert result.stdout == f"{out}: 10 images\n"
    assert RegionStore(out).dtype == np.float32

    result = run("check", out)
    assert result.exit_code == 0
    assert result.stdout == f"{out}: 10 rows, 0 bad\n"
    assert run("check", tsv).exit_code == 0

    facts = dict(
        line.split(maxsplit=1) for line in run("show", out).stdout.splitlines() if " size" not in line
    )
    assert facts["images"] == "10"
    assert facts["boxes"] == "360 (36 to 36 an image)"
    assert facts["dtype"] == "float32"
    assert facts["bytes"] == f"{out.stat().st_size:,}"

    with pytest.raises(InputError, match="exists already"):
        run("convert", tsv, out)
    assert run("convert", tsv, out, "--force").exit_code == 0
    assert RegionStore(out).dtype == np.float16


def test_check_names_every_bad_row_of_a_region_file(tsv: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    run("convert", tsv, out)
    data = bytearray(out.read_bytes())
    store = RegionStore(out)
    for row in (2, 7):
        place = data.index(store.image(row).features.tobytes())
        data[place + 1000] ^= 1
    out.write_bytes(data)
    result = run("check", out)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line.split(", image")[0] for line in lines[:2]] == [f"{out}: row 3", f"{out}: row 8"]
    assert lines[2] == f"{out}: 10 rows, 2 bad"


def test_check_names_every_bad_row_of_a_tsv(tsv: Path, tmp_path: Path) -> None:
    rows = tsv.read_bytes().splitlines(keepends=True)
    rows[1] = rows[1].replace(b"\t36\t", b"\t35\t")
    rows[4] = rows[4].replace(b"\t", b"\t\t", 1)
    rows[6] = rows[6][:1000] + b"*" + rows[6][1001:]
    rows[9] = rows[9][:-1000]
    bad = tmp_path / "bad.tsv"
    bad.write_bytes(b"".join(rows))
    result = run("check", bad)
    assert result.exit_code == 1
    named = [
        int(line.split(": row ")[1].split(",")[0].split(":")[0]) for line in result.stdout.splitlines()[:4]
    ]
    assert sorted(named) == [2, 5, 7, 10]
    assert result.stdout.splitlines()[4] == f"{bad}: 10 rows, 4 bad"

    with pytest.raises(InputError, match="row 2"):
        run("convert", bad, tmp_path / "a.h5")
    result = run("convert", bad, tmp_path / "a.h5", "--skip-bad")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == f"{tmp_path / 'a.h5'}: 6 images, bad rows left out: 4"
    assert len(RegionStore(tmp_path / "a.h5")) == 6


@pytest.mark.parametrize("command", ["check", "show"])
def test_files_that_are_none(tmp_path: Path, command: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        run(command, tmp_path / "none.h5")
    (tmp_path / "empty.h5").touch()
    with pytest.raises(InputError, match="empty"):
        run(command, tmp_path / "empty.h5")


def test_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network from a module beside the user."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (40, 30), (40 * i, 255 - 40 * i, 90)).save(folder / f"p{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (tmp_path / "beside.py").write_text("import torch\nnetwork = torch.nn.AvgPool2d(8)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = ["grid", folder, "a.h5", "--size", 32, "--rows", 2, "--cols", 2, "--objects", 3]
    arguments += ["--attributes", 2, "--backbone", "beside:network"]
    with pytest.raises(InputError, match=r"broken\.png: cannot be read"):
        run(*arguments)
    result = run(*arguments, "--skip-bad")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "a.h5: 6 images, unreadable pictures left out: 1"
    shown = run("show", "a.h5").stdout
    assert "pseudo-labels" in shown
    assert "24 (4 to 4 an image)" in shown
    assert run("check", "a.h5").exit_code == 0


@pytest.mark.parametrize("command", ["convert", "check", "grid", "show"])
def test_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert command in result.stdout
