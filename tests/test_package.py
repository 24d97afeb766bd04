"""The package as strangers meet it: a wheel in another folder, and the traps around the root folders."""

from __future__ import annotations

import ast
import os
import re
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lxmert_fast

REPO = Path(__file__).resolve().parent.parent
ROOMS = ("kernels", "train", "bench")


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, REPO, cwd=out)
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_holds_the_rooms_and_the_configurations(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "lxmert_fast/kernels/cross_attention/reference.py" in names
    assert "lxmert_fast/train/loop.py" in names
    assert "lxmert_fast/train/configs/vqa.yaml" in names
    assert "lxmert_fast/py.typed" in names
    assert {"lxmert_fast/looking/explanation.html", "lxmert_fast/train/run_page.html"} <= names
    outside = {name.split("/")[0] for name in names}
    assert {name for name in outside if not name.endswith(".dist-info")} == {"lxmert_fast"}


def test_the_wheel_works_from_another_folder(wheel, tmp_path):
    """A new environment that shares only this one's dependencies, not its editable install."""
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        wheel,
        cwd=tmp_path,
    )
    program = """
import lxmert_fast, lxmert_fast.kernels.self_attention as k, lxmert_fast.train.config_files as c
from lxmert_fast import LxmertConfig, LxmertForQuestionAnswering
print(lxmert_fast.__file__, k.__file__, c.shipped_names(whole=True))
"""
    printed = run(python, "-c", program, cwd=tmp_path)
    assert str(REPO) not in printed
    assert "pretrain" in printed
    assert "Pre-train" in run(environment / "bin" / "lxmert-fast", "--help", cwd=tmp_path)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_have_no_root_init(room):
    """A regular package `kernels` on sys.path breaks transformers' imports (design, section 2)."""
    assert not (REPO / room / "__init__.py").exists()


def test_transformers_imports_from_the_root():
    run(sys.executable, "-c", "from transformers import LxmertModel", cwd=REPO, PYTHONPATH=str(REPO))


def test_setup_imports_no_torch_and_runs_no_subprocess():
    tree = ast.parse((REPO / "setup.py").read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name) or ""
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported <= {"setuptools", "pathlib"}


def test_help_does_not_wait_for_torch():
    program = "import sys, lxmert_fast.cli; print('torch' in sys.modules, 'transformers' in sys.modules)"
    assert run(sys.executable, "-c", program, cwd=REPO).split() == ["False", "False"]


def test_every_public_name_is_there():
    for name in lxmert_fast.__all__:
        assert getattr(lxmert_fast, name) is not None


def test_names_in_the_readme_are_public():
    imports = re.findall(r"^from lxmert_fast import (.+)$", (REPO / "README.md").read_text(), re.MULTILINE)
    assert imports
    for name in ", ".join(imports).split(", "):
        assert name in lxmert_fast.__all__, name


def test_imports_go_one_way():
    """kernels <- lxmert_fast <- train, bench; the command alone looks up, when it runs."""
    allowed = {"kernels": (), "lxmert_fast": ("kernels",)}
    for room, below in allowed.items():
        for path in (REPO / room).rglob("*.py"):
            if path.name == "cli.py" or path.parent.name == "commands":
                continue
            for other in ROOMS:
                if other == room or other in below:
                    continue
                text = path.read_text()
                assert f"lxmert_fast.{other}" not in text, f"{path} imports {other}"
                assert f"from .{other}" not in text, f"{path} imports {other}"
