"""What is compiled ahead of time: every entry of the launch tables, as the launchers would ask for it.

    forms   "heavy", every flag on that makes a kernel longer; "light", every flag off: plain inference, which
            only forward kernels have
    types   of the hidden states and the parameters, all alike

Names of arguments say what their types are, in all kernels alike: `POINTERS` and `NUMBERS`. What the JIT
would find out about arguments is here by rule: torch gives pointers to multiples of 16 bytes, and rows are
multiples of 16 elements apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lxmert_fast.errors import InputError
from lxmert_fast.kernels.configs import BY_ARCHITECTURE, DEFAULT, Key, Settings, settings

from .occupancy import ARCHITECTURES

#: Bytes of an element of each type.
TYPES = {"fp32": 4, "fp16": 2, "bf16": 2}
#: Attention's keys end with the bytes of an element.
ATTENTION_KEY = 3
#: Modules by the first word of a kernel's name.
HOMES = {
    "attention": "self_attention.triton",
    "norm": "dropout_add_layer_norm.triton",
    "gelu": "bias_gelu.triton",
    "text": "text_embedding.triton",
    "visual": "visual_embedding.triton",
    "sum": "tiles",
}
#: Pointers that do not point to the type of the hidden states.
POINTERS = {
    **dict.fromkeys(("p_seed", "p_table", "p_ids", "p_positions", "p_segments"), "i64"),
    **dict.fromkeys(("p_start", "p_reader"), "i64"),
    **dict.fromkeys(("p_mean", "p_rstd", "p_stats", "p_part"), "fp32"),
}
#: Numbers that are no counts.
NUMBERS = dict.fromkeys(("scale", "keep_scale", "eps"), "fp32")
#: Kernels whose launchers pass hidden states where no seed is needed; the others pass indices.
SEEDLESS = ("norm", "visual")
#: Flags that are off in the heavy form, since they leave work out.
LIGHTER = ("SAME", "FROM_S")
FLAGS = ("HAS_BIAS", "HAS_SEGMENTS", "TWO", "DROPOUT", "KEEP_S", "WANT_Y", *LIGHTER)
HEADS, HIDDEN, INNER = 12, 768, 3072


@dataclass(frozen=True)
class Spec:
    """One kernel to compile."""

    kernel: str
    key: Key
    settings: Settings
    dtype: str
    form: str
    arch: int

    @property
    def name(self) -> str:
        """For people and for files."""
        return f"{self.kernel} {self.key_text} {self.dtype} {self.form} sm_{self.arch}"

    @property
    def key_text(self) -> str:
        """The key of the table as files of tables write it."""
        return "x".join(map(str, self.key))

    def function(self) -> Any:
        """The `triton.jit` function."""
        home = HOMES[self.kernel.split("_")[0]]
        return getattr(import_module(f"lxmert_fast.kernels.{home}"), self.kernel)

    def constants(self) -> dict[str, Any]:
        """The compile-time arguments by name."""
        first, second = self.key[0], self.key[-2] if len(self.key) == ATTENTION_KEY else 0
        known: dict[str, Any] = {
            "ROWS": self.settings.rows, "BLOCK": first, "BLOCK_H": first, "BLOCK_K": first, "BLOCK_D": second,
            "BLOCK_W": min(self.settings.columns or second, second),
            "HELD": self.settings.columns == 0,
            # a row that does not fill its tile has the masks of all others, and is as long as the model's
            "H": first * 3 // 4, "WIDTH": HIDDEN, "D": second, "HEADS": HEADS, "PRECISION": "ieee",
        }  # fmt: skip
        known |= {flag: self.form == "heavy" and flag not in LIGHTER for flag in FLAGS}
        # masks are of the model's type
        known["HALF_BIAS"] = known["HAS_BIAS"] and self.dtype == "fp16"
        if self.kernel.startswith("gelu"):
            known["H"] = INNER
        names = self.function().arg_names
        return {name: known[name] for name in names if name.isupper()}

    def signature(self) -> dict[str, str]:
        """Types of all arguments by name, as Triton writes them."""
        constants = self.constants()
        return {name: self._type(name, constants) for name in self.function().arg_names}

    def attributes(self) -> dict[tuple[int], list[list[Any]]]:
        """What is known of arguments by their position: those that 16 divides."""
        function = self.function()
        open_to_all = set(function.do_not_specialize)
        return {
            (i,): [["tt.divisibility", 16]]
            for i, (name, kind) in enumerate(self.signature().items())
            if kind.startswith("*") or (kind == "i32" and name not in open_to_all)
        }

    def _type(self, name: str, constants: dict[str, Any]) -> str:
        if name in constants:
            return "constexpr"
        if not name.startswith("p_"):
            return NUMBERS.get(name, "i32")
        if name == "p_seed" and self.form == "light" and self.kernel.startswith(SEEDLESS):
            return f"*{self.dtype}"
        return "*" + POINTERS.get(name, self.dtype)


def specs(architectures: Iterable[int], kernels: Iterable[str] = ()) -> Iterator[Spec]:
    """Every entry that a launch may find, in every type and form.

    Args:
        architectures: to compile for.
        kernels: names; all if empty.
    """
    for arch in architectures:
        for kernel, table in DEFAULT.items():
            if kernels and kernel not in kernels:
                continue
            for key in table | BY_ARCHITECTURE.get(arch, {}).get(kernel, {}):
                for dtype, size in TYPES.items():
                    if len(key) == ATTENTION_KEY and key[-1] != size:
                        continue
                    for form in ("heavy", "light") if kernel.endswith("forward") else ("heavy",):
                        yield Spec(kernel, key, settings(kernel, arch, *key), dtype, form, arch)


def chosen_specs(architectures: Iterable[int] | None, kernels: Iterable[str] | None) -> list[Spec]:
    """What a user asks for; all where nothing is said.

    Raises:
        InputError: an architecture or a kernel that is not known.
    """
    asked = list(architectures or ARCHITECTURES)
    named = list(kernels or DEFAULT)
    for unknown in [arch for arch in asked if arch not in ARCHITECTURES]:
        raise InputError(f"no architecture {unknown}, wanted one of {', '.join(map(str, ARCHITECTURES))}")
    for missing in [kernel for kernel in named if kernel not in DEFAULT]:
        raise InputError(f"no kernel {missing!r}, wanted one of {', '.join(DEFAULT)}")
    return list(specs(asked, named))
