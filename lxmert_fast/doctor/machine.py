"""Cores, memory, disks, network and limits of this machine, as this process sees them."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import psutil

from lxmert_fast.caches import CACHES

from .facts import Fact

GB = 1e9
#: A container's memory limit.
CGROUP = Path("/sys/fs/cgroup/memory.max")
INFINIBAND = Path("/sys/class/infiniband")
SHARED_MEMORY = Path("/dev/shm")
NETWORK_FILE_SYSTEMS = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cifs",
    "smb",
    "glusterfs",
    "afs",
    "9p",
    "fuse.sshfs",
)
#: Open files that loaders, sockets and logs of a node of 8 ranks stay below.
ENOUGH_FILES = 4096
ENOUGH_SHARED = 1 * GB


def processors() -> list[Fact]:
    """Cores that this process may use, and that there are."""
    mine, all_of_them = len(os.sched_getaffinity(0)), os.cpu_count()
    return [
        Fact(
            "CPU cores", f"{mine} of {all_of_them}", "" if mine > 1 else "loaders share the core of training"
        )
    ]


def memory() -> list[Fact]:
    """Of the machine, and of this container where it is less."""
    there = psutil.virtual_memory()
    found = f"{there.total / GB:.1f} GB, {there.available / GB:.1f} GB free"
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else "max"
    if limit.isdigit() and int(limit) < there.total:
        found += f"; this container may have {int(limit) / GB:.1f} GB"
    return [Fact("memory", found)]


def disk() -> list[Fact]:
    """Of the working folder, where runs are written by default."""
    here = Path.cwd()
    free = psutil.disk_usage(str(here)).free
    return [Fact("disk of the working folder", f"{free / GB:.1f} GB free, {file_system(here)}")]


def caches() -> list[Fact]:
    """Where training keeps compiled code: on a network file system ranks of a job meet half-written files."""
    found = []
    for cache in CACHES:
        kind = file_system(cache.place)
        wanted = cache.variable if cache.chosen else f"TMPDIR or {cache.variable}"
        means = f"a network file system: ranks race and stall there; set {wanted} to a local folder"
        found.append(Fact(cache.name, f"{cache.place}, {kind}", means if is_network(kind) else ""))
    return found


def file_system(path: Path) -> str:
    """Its kind where the path lies, or would lie: that of the mount point nearest above it."""
    path = path.resolve()
    above = {path, *path.parents}
    mounts = [part for part in psutil.disk_partitions(all=True) if Path(part.mountpoint) in above]
    # the last of those mounted at one place hides the others
    nearest = max(reversed(mounts), key=lambda part: len(part.mountpoint), default=None)
    return nearest.fstype if nearest else "unknown"


def is_network(kind: str) -> bool:
    """Whether files of such a system lie on another machine."""
    return kind.lower().startswith(NETWORK_FILE_SYSTEMS)


def network() -> list[Fact]:
    """Interfaces that are up, the loopback left out, and ports of InfiniBand."""
    found = []
    for name, stats in psutil.net_if_stats().items():
        if name == "lo" or not stats.isup:
            continue
        speed = f"{stats.speed / 1e3:g} Gbit/s" if stats.speed > 0 else "up, its speed is not told"
        found.append(Fact(f"network {name}", speed))
    for rate in sorted(INFINIBAND.glob("*/ports/*/rate")):
        adapter, port = rate.parents[2].name, rate.parent.name
        found.append(Fact(f"InfiniBand {adapter} port {port}", rate.read_text().strip()))
    return found or [Fact("network", None, "this node trains alone")]


def open_files() -> list[Fact]:
    """ulimit -n."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    few = soft != unlimited and soft < ENOUGH_FILES
    found = "unlimited" if soft == unlimited else f"{soft:,}"
    most = "unlimited" if hard == unlimited else f"{hard:,}"
    means = f"many loader workers may end with 'Too many open files'; raise it (ulimit -n {ENOUGH_FILES})"
    return [Fact("open files", f"{found} (may be raised to {most})", means if few else "")]


def shared_memory() -> list[Fact]:
    """/dev/shm: loader workers hand batches over through it."""
    if not SHARED_MEMORY.is_dir():
        return [Fact("/dev/shm", None, "loader workers cannot hand batches over: run.workers=0")]
    size = psutil.disk_usage(str(SHARED_MEMORY)).total
    means = "loader workers may end with a bus error; docker run --shm-size=8g, or run.workers=0"
    return [Fact("/dev/shm", f"{size / GB:.2f} GB", means if size < ENOUGH_SHARED else "")]
