"""The doctor: what it reads here, and what it says where a piece is missing or broken."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from lxmert_fast import doctor
from lxmert_fast.cli import app
from lxmert_fast.doctor import Fact, devices, machine, software

Mount = namedtuple("Mount", "device mountpoint fstype opts")


def facts(found: list[Fact]) -> dict[str, Fact]:
    return {fact.name: fact for fact in found}


def test_what_is_here() -> None:
    found = facts(doctor.examine())
    assert found["torch"].found == torch.__version__
    assert found["transformers"].found == metadata.version("transformers")
    assert found["CPU cores"].found == f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
    assert found["Triton's cache"].found
    assert found["HDF5"].found


def test_table_and_json_say_the_same() -> None:
    table = CliRunner().invoke(app, ["doctor"])
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert table.exit_code == done.exit_code == 0
    rows = json.loads(done.stdout)
    assert {"name", "found", "means"} == set(rows[0])
    for row in rows:
        assert row["name"] in table.stdout


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("triton", "CUDA tensors take PyTorch's own operations"),
        ("deepspeed", "no ZeRO"),
        ("tensorboard", "metrics.jsonl is written all the same"),
        ("wandb", "metrics.jsonl is written all the same"),
        ("pytorch-optimizer", "lamb is refused"),
    ],
)
def test_a_package_that_is_missing(name: str, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "version", lambda asked: None if asked == name else "1.0")
    found = facts(software.packages())
    assert found[name].found is None
    assert lost in found[name].means
    assert found["torch"] == Fact("torch", "1.0")


def test_no_h5py_and_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "version", lambda asked: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert software.hdf5() == [Fact("h5py", None, "no region file can be read or written")]
    assert "no optimizer offload" in facts(software.compilers())["c++"].means


def test_the_other_apex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "version", lambda asked: "0.9.10")
    monkeypatch.setattr(software, "missing_of_apex", lambda: "it is another one, or built without")
    (found,) = software.apex()
    assert found.found is None
    assert "another one" in found.means
    monkeypatch.setattr(software, "missing_of_apex", lambda: None)
    assert software.apex() == [Fact("apex", "0.9.10")]


class FakeGpu:
    name, total_memory, major, minor = "Tesla V100-SXM2-16GB", 16_935_682_048, 7, 0


def test_gpus_by_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: FakeGpu)
    found = devices.accelerators()
    assert [fact.name for fact in found] == ["GPU 0", "GPU 1"]
    assert found[0].found == "Tesla V100-SXM2-16GB, 16.9 GB, compute capability 7.0"
    assert found[0].means == "no bf16 products: optimisation.precision=fp16"
    driver = tmp_path / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    )
    monkeypatch.setattr(devices, "DRIVER", driver)
    assert facts(devices.cuda())["NVIDIA driver"] == Fact("NVIDIA driver", "550.54.15")


def test_no_gpu_and_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "absent")
    assert "training runs on the CPU" in devices.accelerators()[0].means
    assert facts(devices.cuda())["NVIDIA driver"].means == "no NVIDIA GPU can be used"


def test_a_cache_on_a_network_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    mounts = [Mount("", "/", "ext4", ""), Mount("", str(home), "nfs4", ""), Mount("", "/other", "xfs", "")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(home / "not" / "there" / "yet"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "local"))
    found = facts(machine.caches())
    assert found["Triton's cache"].found == f"{home}/not/there/yet, nfs4"
    assert "set TRITON_CACHE_DIR to a local folder" in found["Triton's cache"].means
    assert found["DeepSpeed's built operations"].means == ""


def test_little_of_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total free")
    monkeypatch.setattr(psutil, "disk_usage", lambda path: usage(64e6, 1e9))
    monkeypatch.setattr("resource.getrlimit", lambda what: (1024, 4096))
    limit = tmp_path / "memory.max"
    limit.write_text("2000000000\n")
    monkeypatch.setattr(machine, "CGROUP", limit)
    assert machine.shared_memory()[0].found == "0.06 GB"
    assert "bus error" in machine.shared_memory()[0].means
    assert machine.open_files()[0].found == "1,024 (may be raised to 4,096)"
    assert "Too many open files" in machine.open_files()[0].means
    assert "this container may have 2.0 GB" in (machine.memory()[0].found or "")


def test_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stats = namedtuple("stats", "isup speed")
    there = {
        "lo": stats(True, 0),
        "eth0": stats(True, 25000),
        "eth1": stats(True, 0),
        "eth2": stats(False, 0),
    }
    monkeypatch.setattr(psutil, "net_if_stats", lambda: there)
    port = tmp_path / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "rate").write_text("400 Gb/sec (4X NDR)\n")
    monkeypatch.setattr(machine, "INFINIBAND", tmp_path)
    assert machine.network() == [
        Fact("network eth0", "25 Gbit/s"),
        Fact("network eth1", "up, its speed is not told"),
        Fact("InfiniBand mlx5_0 port 1", "400 Gb/sec (4X NDR)"),
    ]
    monkeypatch.setattr(psutil, "net_if_stats", dict)
    monkeypatch.setattr(machine, "INFINIBAND", tmp_path / "absent")
    assert machine.network() == [Fact("network", None, "this node trains alone")]


def test_a_broken_piece_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_driver() -> list[Fact]:
        raise RuntimeError("CUDA unknown error\n- this may be due to an incorrectly set up environment")

    monkeypatch.setattr(doctor, "PROBES", (broken_driver, machine.processors))
    found = doctor.examine()
    assert found[0].name == "broken driver"
    assert "could not be read: CUDA unknown error - this" in found[0].means
    assert len(found) == 2
