"""Kernels compiled for GPUs that are not there: what is asked for, what is found wrong, the whole proof."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call
from torch import Tensor

pytest.importorskip("triton")

from lxmert_fast.bench.aot import compile_all, compile_one
from lxmert_fast.bench.aot_rows import Row, expected_matrix, faults
from lxmert_fast.bench.aot_specs import Spec, chosen_specs, specs
from lxmert_fast.bench.aot_table import aot_table, worst_rows
from lxmert_fast.bench.occupancy import occupancy
from lxmert_fast.errors import InputError
from lxmert_fast.kernels.configs import DEFAULT, Settings
from lxmert_fast.kernels.dropout_add_layer_norm.parameters import Parameters

COMMAND = Path(sys.executable).with_name("lxmert-fast")
ROWS, HIDDEN, INNER, HEADS = 64, 768, 3072, 12


def spec(kernel: str = "attention_forward", rows: int = 64, warps: int = 4, **changed: Any) -> Spec:
    made = Spec(kernel, (64, 64, 2), Settings(rows, warps), "fp16", "heavy", 90)
    return replace(made, **changed)


def row(**changed: Any) -> Row:
    """Nothing is wrong with it unchanged."""
    return replace(Row(spec(), registers=128, shared=1024, matrix=("wgmma",)), **changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"spilled": 8}, "8 bytes of a thread spilled"),
        ({"registers": 256}, "256 registers"),
        ({"shared": 227 * 1024}, None),
        ({"shared": 227 * 1024 + 1}, "bytes of shared memory, 232448 are the most"),
        ({"matrix": ("mma.sync",)}, "matrix instructions: mma.sync, expected wgmma"),
        ({"matrix": ()}, "matrix instructions: none, expected wgmma"),
        ({"error": "PTXASError: no"}, "PTXASError: no"),
        ({"spec": spec(warps=32)}, "no block fits"),
    ],
)
def test_faults_are_named(changed: dict[str, Any], words: str | None):
    """Of a kernel that is right but for one thing."""
    found = faults(row(**changed))
    assert (words is None and not found) or (words is not None and words in "; ".join(found))


@pytest.mark.parametrize(
    ("asked", "families"),
    [
        (spec(), {"wgmma"}),
        (spec(arch=100), {"tcgen05"}),
        (spec(arch=80), {"mma.sync"}),
        (spec(arch=120), {"mma.sync"}),
        (spec(rows=32), {"mma.sync"}),
        (spec(warps=2), {"mma.sync"}),
        (spec(dtype="fp32"), set()),
        (spec(kernel="norm_forward"), set()),
        (spec(kernel="attention_backward", rows=32), {"mma.sync", "wgmma"}),
        (spec(kernel="attention_backward", key=(32, 64, 2)), {"mma.sync", "wgmma"}),
        (spec(kernel="attention_backward", key=(128, 64, 2), arch=100), {"tcgen05"}),
    ],
)
def test_expected_matrix_instructions(asked: Spec, families: set[str]):
    assert expected_matrix(asked) == families


@pytest.mark.parametrize(
    ("needs", "blocks", "share"),
    [
        # 40 * 32 registers a warp; 16,384 of a quarter hold 12 warps, 48 in all
        ((80, 4, 40, 0), 12, 48 / 64),
        # 24 * 32 = 768: 21 warps a quarter, 84 in all, of which 64 may be there
        ((80, 4, 24, 0), 16, 1.0),
        # 255 is given as 256: 2 warps a quarter, one block of 8
        ((80, 8, 255, 0), 1, 8 / 64),
        # 100 * 32 = 3200 is given as 3328: 4 warps a quarter, of blocks of 8 two
        ((90, 8, 100, 0), 2, 16 / 64),
        # 164 KB are two of 80 KB and the 1 KB that the system keeps of each
        ((80, 4, 32, 80 * 1024), 2, 8 / 64),
        ((80, 4, 32, 82 * 1024), 1, 4 / 64),
        # one warp each: as many blocks as there may be
        ((90, 1, 16, 0), 32, 0.5),
        ((120, 1, 16, 0), 24, 0.5),
        # 512 columns of tensor memory
        ((100, 4, 32, 0, 256), 2, 8 / 64),
        ((120, 4, 32, 100 * 1024), 0, 0.0),
    ],
)
def test_occupancy(needs: tuple[int, ...], blocks: int, share: float):
    assert occupancy(*needs) == (blocks, pytest.approx(share))


def test_every_entry_is_compiled_in_every_type_and_form():
    """An architecture's own entries take the place of the default ones."""
    names = [one.name for one in specs([80, 90])]
    assert len(set(names)) == len(names)
    for name in ("attention_backward 64x64x2 bf16 heavy sm_90", "norm_forward 4096 fp32 light sm_80"):
        assert name in names
    rows = {one.arch: one.settings.rows for one in specs([80, 90]) if "backward 128x64x2 fp16" in one.name}
    assert rows == {80: 32, 90: 64}


@pytest.mark.parametrize(("arch", "kernel", "word"), [([70], None, "70"), (None, ["relu"], "'relu'")])
def test_unknown_names(arch: list[int] | None, kernel: list[str] | None, word: str):
    with pytest.raises(InputError, match=word):
        chosen_specs(arch, kernel)


def launches(monkeypatch: pytest.MonkeyPatch, heavy: bool) -> list[tuple[Any, Settings, tuple, dict]]:
    """What the launchers pass for half-precision tensors of the model's sizes."""
    from lxmert_fast.kernels.bias_gelu import triton as gelu
    from lxmert_fast.kernels.dropout_add_layer_norm import triton as norm
    from lxmert_fast.kernels.self_attention import triton as attention
    from lxmert_fast.kernels.text_embedding import triton as text
    from lxmert_fast.kernels.visual_embedding import triton as visual

    found = []
    for module in (gelu, norm, attention, text, visual):
        monkeypatch.setattr(
            module, "launch", lambda kernel, grid, on, chosen, *a, **k: found.append((kernel, chosen, a, k))
        )

    def rows(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float16)

    x, vector, index = rows(ROWS, HIDDEN), rows(HIDDEN), torch.zeros(ROWS, dtype=torch.int64)
    single = torch.zeros(ROWS)
    seed, p = (index[:1], 0.1) if heavy else (None, 0.0)
    bias = vector if heavy else None
    first = Parameters(vector, vector, bias)
    second, split = (first, 32) if heavy else (None, ROWS)
    norm.launch_forward(x, x, first, second, split, 1e-12, seed, 3, p, heavy)
    inner, vector_inner = rows(ROWS, INNER), rows(INNER) if heavy else None
    gelu.launch_forward(inner, vector_inner, vector_inner, split)
    tables, ids = (x, x, x), (index, index, index if heavy else None)
    text.launch_forward(tables, ids, vector, vector, 1e-12, seed, 3, p)
    box, box_weight, norms = rows(ROWS, 4), rows(HIDDEN, 4), (vector,) * 4
    visual.launch_forward(x, bias, box, box_weight, vector, norms, 1e-12, seed, 3, p)
    qkv, meetings = rows(ROWS, 3 * HIDDEN), torch.zeros(2, 6, dtype=torch.int64)
    q, k, v = qkv.split(HIDDEN, 1)
    mask = rows(2, 32) if heavy else None
    attention.launch_forward(q, k, v, meetings, mask, seed, 3, p, HEADS, ROWS, (64, 64))
    if heavy:
        norm.launch_backward(
            x, x.dtype, x, rows(0), single, single, first, second, split, seed, 3, p
        )  # with sum_partials
        gelu.launch_backward(inner, inner, vector_inner, vector_inner, split, True)
        text.launch_backward(x, tables, ids, vector, single, single, seed, 3, p)
        stats = torch.zeros(4, ROWS)
        visual.launch_backward(x, x, bias, box, box_weight, vector, norms[:2], stats, seed, 3, p)
        into = rows(ROWS, 3 * HIDDEN).split(HIDDEN, 1)
        attention.launch_backward(x, q, k, v, meetings, mask, seed, 3, p, HEADS, (64, 64), into)
        attention.launch_sum_readers(x, torch.zeros(9, dtype=torch.int64), index)
    return found


@pytest.mark.parametrize("form", ["heavy", "light"])
def test_signatures_are_those_of_the_launchers(form: str, monkeypatch: pytest.MonkeyPatch):
    """Triton's own rule about the arguments that launchers pass gives what the rule table gives."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(GPUTarget("cuda", 80, 32))
    known = {(one.kernel, one.key): one for one in specs([80]) if (one.dtype, one.form) == ("fp16", form)}
    seen = set()
    for kernel, chosen, arguments, constants in launches(monkeypatch, form == "heavy"):
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        values, found, _ = binder(*arguments, **constants)
        sizes = [values[name] for name in ("BLOCK", "BLOCK_H", "BLOCK_K", "BLOCK_D") if name in values]
        asked = known[kernel.fn.__name__, (*sizes, 2) if len(sizes) == 2 else tuple(sizes)]
        assert asked.settings == chosen
        types = dict(zip(kernel.arg_names, (kind for kind, _ in found), strict=True))
        assert types == asked.signature(), asked.name
        divided = {(i,) for i, (kind, key) in enumerate(found) if kind != "constexpr" and key == "D"}
        assert divided == set(asked.attributes()), asked.name
        ours = {name: value for name, value in asked.constants().items() if name not in ("WIDTH", "H")}
        assert ours == {name: values[name] for name in ours}, asked.name
        seen.add(asked.kernel)
    kernels = {one.kernel for one in specs([80]) if form == "heavy" or one.kernel.endswith("forward")}
    assert seen == kernels


@pytest.mark.parametrize(("arch", "matrix"), [(80, "mma.sync"), (90, "wgmma"), (100, "tcgen05")])
def test_attention_compiles(arch: int, matrix: str):
    (asked,) = (s for s in specs([arch]) if s.name == f"attention_forward 64x64x2 fp16 light sm_{arch}")
    found = compile_one(asked)
    assert found.matrix == (matrix,)
    assert 16 < found.registers < 256
    assert found.shared >= 2 * 64 * 64 * 2
    assert bool(found.tensor_columns) == (arch == 100)
    assert not faults(found)


def test_a_tile_that_spills_is_a_fault():
    """The compiler is asked for far more than registers hold."""
    asked = Spec("norm_forward", (4096,), Settings(8, 4), "fp32", "light", 80)
    found = compile_one(asked)
    assert found.spilled
    assert "spilled" in faults(found)[0]


def test_what_does_not_compile_is_a_fault():
    asked = Spec("norm_forward", (64,), Settings(3, 4), "fp32", "light", 80)
    assert "power of 2" in faults(compile_one(asked))[0]


def test_a_second_run_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = list(specs([80], ["sum_readers"]))
    told: list[int] = []
    first = compile_all(asked, tmp_path, done=told.append)
    assert told == [0, 1, 1, 1]
    monkeypatch.setattr("lxmert_fast.bench.aot.ProcessPoolExecutor", None)
    assert compile_all(asked, tmp_path) == first


def test_table_shows_the_worst_row_and_every_fault():
    good, worse, bad = row(), row(registers=255), row(spilled=8)
    assert worst_rows([good, worse, bad]) == [(worse, 3)]
    assert aot_table([good, worse, bad]).row_count == 2
    assert aot_table([good, worse, bad], everything=True).row_count == 3


def call_alone(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which reads its environment anew."""
    return subprocess.run(
        [str(COMMAND), "bench", "aot", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_writes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    options = ["bench", "aot", "--kernel", "sum_readers", "--arch", "80", "--arch", "120"]
    done = call(*options, "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == 0
    assert [(one["arch"], one["dtype"]) for one in found["rows"]] == [
        (arch, dtype) for arch in (80, 120) for dtype in ("fp32", "fp16", "bf16")
    ]
    assert set(found["rows"][0]) == {
        *("kernel", "key", "rows", "warps", "stages", "columns", "dtype", "form", "arch"),
        *("registers", "spilled", "shared", "tensor_columns", "matrix", "error"),
        *("blocks", "warp_share", "faults"),
    }
    table = call(*options)
    assert table.returncode == 0
    assert "6 kernels compiled, 0 with faults" in table.stdout


def test_command_ends_with_1_where_a_tuned_entry_is_wrong(tmp_path: Path):
    """A table of one's own is what launches take, so it is what is compiled."""
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"80": {"sum_partials": {"128": [128, 1, 1]}}}))
    done = call_alone(
        *("--kernel", "sum_partials", "--arch", "80"),
        TRITON_CACHE_DIR=str(tmp_path),
        LXMERT_FAST_CONFIGS=str(tuned),
    )
    assert done.returncode == 1
    assert "sum_partials 128 fp16 heavy sm_80: " in done.stderr
    assert "spilled" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--arch", "70"), "no architecture 70, wanted one of 80, 90, 100, 120"),
        (("--kernel", "relu"), "no kernel 'relu'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str):
    assert_one_line(call("bench", "aot", *arguments), words)


def test_the_interpreter_is_no_compiler():
    assert_one_line(call_alone(TRITON_INTERPRET="1"), "TRITON_INTERPRET=1")


def assert_one_line(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lxmert_fast.bench.aot.has_triton", lambda: False)
    with pytest.raises(InputError, match="Triton is not installed"):
        compile_all([spec()])


def of_the_papers_model(one: Spec) -> bool:
    """Heads of 64, rows of 768: what the base model launches."""
    if len(one.key) == 3:
        return one.key[1] == 64
    return one.key == (1024,) or DEFAULT[one.kernel].keys() == {one.key}


def in_ci(one: Spec) -> bool:
    """Every type and form for sm_90; for each other architecture every tile of every kernel with all its
    flags, and fp16 for bf16 too: the same tiles and settings, and registers within 12 of each other."""
    return one.arch == 90 or (one.form == "heavy" and one.dtype != "bf16")


@pytest.mark.slow
def test_every_launch_setting_of_the_papers_model_compiles_without_a_fault():
    """On two processes; `lxmert-fast bench aot` proves the other sizes too, and takes minutes."""
    every = [one for one in specs([80, 90, 100, 120]) if of_the_papers_model(one) and in_ci(one)]
    for arch in (80, 90, 100, 120):
        assert {one.kernel for one in every if one.arch == arch} == set(DEFAULT)
    wrong = [f"{one.spec.name}: {found}" for one in compile_all(every) if (found := faults(one))]
    assert not wrong
