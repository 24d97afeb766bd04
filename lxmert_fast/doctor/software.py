"""Packages and compilers."""

from __future__ import annotations

import shutil
from importlib import metadata

from lxmert_fast.kernels.apex import missing as missing_of_apex

from .facts import Fact

#: By distribution, what is lost without it.
WITHOUT = {
    "torch": "nothing works",
    "transformers": "nothing works",
    "triton": "CUDA tensors take PyTorch's own operations: more launches, more memory (pip install "
    "'lxmert-fast[triton]')",
    "deepspeed": "one process trains alone: no ZeRO, no several GPUs (pip install 'lxmert-fast[deepspeed]')",
    "pytorch-optimizer": "optimisation.optimizer=lamb is refused (pip install 'lxmert-fast[train]')",
    "tensorboard": "no curves for TensorBoard; metrics.jsonl is written all the same (pip install "
    "'lxmert-fast[train]')",
    "wandb": "run.wandb is refused; metrics.jsonl is written all the same (pip install 'lxmert-fast[wandb]')",
}


def version(name: str) -> str | None:
    """Of an installed distribution; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def packages() -> list[Fact]:
    """Versions, from the packages' own records: none of them is imported."""
    found = {name: version(name) for name in WITHOUT}
    return [Fact(name, found[name], "" if found[name] else lost) for name, lost in WITHOUT.items()]


def hdf5() -> list[Fact]:
    """h5py, and the library that it was built with."""
    if version("h5py") is None:
        return [Fact("h5py", None, "no region file can be read or written")]
    import h5py

    return [Fact("h5py", h5py.version.version), Fact("HDF5", h5py.version.hdf5_version)]


def apex() -> list[Fact]:
    """NVIDIA's, or what stands in its place."""
    why = missing_of_apex()
    found = version("apex")
    if why is None:
        return [Fact("apex", found or "NVIDIA's")]
    return [Fact("apex", None, f"{why}; nothing is lost but LXMERT_FAST_KERNELS=apex")]


def compilers() -> list[Fact]:
    """What DeepSpeed builds its operations with, on first use."""
    lost = {
        "c++": "DeepSpeed cannot build its Adam of the host: no optimizer offload",
        "nvcc": "DeepSpeed cannot build its GPU operations, such as FusedAdam and FusedLamb",
    }
    found = {name: shutil.which(name) for name in lost}
    return [Fact(name, found[name], "" if found[name] else lost[name]) for name in lost]
