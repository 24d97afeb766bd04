"""Tables of launch settings: every tile has an entry, files come back as they were written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from lxmert_fast.kernels import configs
from lxmert_fast.kernels.configs import (
    DEFAULT,
    Settings,
    attention_key,
    power_of_two,
    read_table,
    settings,
    write_table,
)


@pytest.fixture(autouse=True)
def nothing_tuned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(configs.VARIABLE, raising=False)
    configs._tuned.cache_clear()
    yield
    configs._tuned.cache_clear()


entries = st.builds(Settings, st.integers(1, 128), st.sampled_from([1, 2, 4, 8]), st.integers(1, 4))
tables = st.dictionaries(
    st.integers(70, 120),
    st.dictionaries(
        st.sampled_from(sorted(DEFAULT)),
        st.dictionaries(
            st.lists(st.integers(1, 4096), min_size=1, max_size=2).map(tuple), entries, max_size=3
        ),
        max_size=3,
    ),
    max_size=3,
)


@given(table=tables)
@trying(max_examples=20, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, table: dict):
    path = tmp_path_factory.mktemp("tables") / "table.json"
    write_table(path, table)
    assert read_table(path) == table


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "3",
        '{"ninety": {}}',
        '{"90": []}',
        '{"90": {"norm_forward": {"wide": [1, 2]}}}',
        '{"90": {"norm_forward": {"64": []}}}',
        '{"90": {"norm_forward": {"64": [1, 2, 3, 4, 5]}}}',
        '{"90": {"norm_forward": {"64": 5}}}',
        '{"90": {"norm_forward": [64]}}',
    ],
)
def test_files_that_are_no_table(tmp_path: Path, text: str):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"table\.json"):
        read_table(path)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_table(tmp_path / "absent.json")


def test_who_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tuned entry, then one of the architecture, then the default."""
    default = DEFAULT["norm_forward"][(64,)]
    assert settings("norm_forward", 90, 64) == default
    monkeypatch.setitem(configs.BY_ARCHITECTURE, 90, {"norm_forward": {(64,): Settings(3, 1)}})
    assert settings("norm_forward", 90, 64) == Settings(3, 1)
    path = tmp_path / "tuned.json"
    write_table(path, {90: {"norm_forward": {(64,): Settings(5, 2)}}})
    monkeypatch.setenv(configs.VARIABLE, str(path))
    configs._tuned.cache_clear()
    assert settings("norm_forward", 90, 64) == Settings(5, 2)
    assert settings("norm_forward", 80, 64) == default
    assert settings("norm_forward", 90, 128) == DEFAULT["norm_forward"][(128,)]


def test_a_tile_that_no_table_has():
    with pytest.raises(ValueError, match=r"norm_forward.*8192"):
        settings("norm_forward", 90, 8192)


@given(n=st.integers(1, 5000), least=st.sampled_from([1, 16, 64]))
def test_power_of_two(n: int, least: int):
    found = power_of_two(n, least)
    assert found & (found - 1) == 0
    assert found >= max(n, least)
    assert found == least or found < 2 * n


@pytest.mark.parametrize("kernel", [name for name in DEFAULT if "norm" in name or "text" in name])
def test_every_width_has_an_entry(kernel: str):
    for width in range(1, 4097):
        assert settings(kernel, 80, power_of_two(width, 64)).rows >= 1


@pytest.mark.parametrize("kernel", ["attention_forward", "attention_backward"])
def test_every_attention_has_an_entry(kernel: str):
    for keys, width in product(range(1, 129), (1, 12, 64, 80, 128)):
        for arch, size in product((80, 90), (2, 4, 8)):
            assert settings(kernel, arch, *attention_key(keys, width, size)).rows >= 16


def test_no_kernel_is_compiled_anew_for_another_batch():
    """What changes from batch to batch is `do_not_specialize`; strides, which follow from widths, are not."""
    pytest.importorskip("triton")
    from lxmert_fast.kernels import tiles
    from lxmert_fast.kernels.bias_gelu import triton as gelu
    from lxmert_fast.kernels.dropout_add_layer_norm import triton as norm
    from lxmert_fast.kernels.self_attention import triton as attention
    from lxmert_fast.kernels.text_embedding import triton as text
    from lxmert_fast.kernels.visual_embedding import triton as visual

    fixed = {"q_stride", "k_stride", "out_stride", "do_stride", "dq_stride", "dk_stride"}
    floats = {"scale", "eps", "keep_scale"}
    kernels = {
        f"{room.__name__}.{name}": kernel
        for room in (tiles, gelu, norm, attention, text, visual)
        for name, kernel in vars(room).items()
        if hasattr(kernel, "do_not_specialize") and name.endswith(("_forward", "_backward", "sum_partials"))
    }
    assert len(kernels) >= 11
    for name, kernel in kernels.items():
        for p in kernel.params:
            if p.is_constexpr or p.name.startswith("p_") or p.name in fixed | floats:
                continue
            assert p.do_not_specialize, f"{name}: {p.name}"
