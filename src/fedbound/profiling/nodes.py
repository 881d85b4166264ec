"""Which rank is on which node, of what type the nodes are, and how fast the links between each two of them are."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Comm

_TEXT = 1024  # bytes of a rank's description, padded
_PING = 7
_PAUSE = 1e-3


@dataclass(frozen=True)
class Rank:
    """Where a rank runs.

    Attributes:
        rank: its MPI rank.
        node: number of its node, in the order of ranks.
        type: processor, cores and GPUs: nodes of one type are measured once.
        cores: processor cores that the rank may use.
        name: the node's name.
    """

    rank: int
    node: int
    type: str
    cores: int
    name: str


@dataclass(frozen=True)
class _Described:
    name: str
    type: str
    cores: int


def here() -> list[Rank]:
    """The one rank of a profile without MPI."""
    found = _describe()
    return [Rank(0, 0, found.type, found.cores, found.name)]


def gather(comm: Comm) -> list[Rank]:
    """All ranks, on every rank."""
    text = json.dumps(asdict(_describe())).encode()[:_TEXT].ljust(_TEXT)
    both = np.empty((comm.size, _TEXT), np.uint8)
    comm.Allgather(np.frombuffer(text, np.uint8).copy(), both)
    found = [_Described(**json.loads(row.tobytes().decode())) for row in both]
    names = list(dict.fromkeys(one.name for one in found))
    return [Rank(rank, names.index(one.name), one.type, one.cores, one.name) for rank, one in enumerate(found)]


def _describe() -> _Described:
    cores = len(os.sched_getaffinity(0))
    names = [_processor()[:120], f"{cores} cores", *_gpus()]
    return _Described(platform.node()[:120], ", ".join(names)[:400], cores)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    nvml = load_nvml()
    if nvml is None:
        return []
    handles = (nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount()))
    names = [nvml.nvmlDeviceGetName(handle) for handle in handles]
    return [name.decode() if isinstance(name, bytes) else name for name in names]


@cache
def load_nvml() -> Any | None:
    """NVIDIA's management library, initialised; None where the package nvidia-ml-py or a driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def pairs(comm: Comm, ranks: Sequence[Rank], sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """One-way times of raw messages between each two nodes, and within each that has two ranks; on rank 0.

    One pair at a time, all other ranks asleep. What is measured is MPI alone: no packing, no checksum.

    Returns:
        Rows of the table PROFILE_PAIRS on rank 0, nothing on others.
    """
    found: list[tuple[float, ...]] = []
    for first, second, a, b in _meetings(ranks):
        if comm.rank == a:
            for size in sizes:
                times = _ping(comm, b, size, repeats)
                found += [(first, second, size, repeat + 1, seconds) for repeat, seconds in enumerate(times)]
        elif comm.rank == b:
            for size in sizes:
                _pong(comm, a, size, repeats)
        quiet_barrier(comm)
    rows = gather_rows(comm, np.array(found, np.float64).reshape(-1, 5))
    keys = ("first", "second", "bytes", "repeat", "seconds")
    whole = (int, int, int, int, float)
    return [{key: kind(x) for key, kind, x in zip(keys, whole, row, strict=True)} for row in rows]


def _meetings(ranks: Sequence[Rank]) -> list[tuple[int, int, int, int]]:
    """(node, node, rank, rank) of each pair of nodes, each node's first rank for it, and its first two within it."""
    members: dict[int, list[int]] = {}
    for one in ranks:
        members.setdefault(one.node, []).append(one.rank)
    within = [(node, node, own[0], own[1]) for node, own in members.items() if len(own) > 1]
    nodes = sorted(members)
    between = [(i, j, members[i][0], members[j][0]) for i in nodes for j in nodes if i < j]
    return within + between


def _ping(comm: Comm, other: int, size: int, repeats: int) -> list[float]:
    buffer = np.zeros(size, np.uint8)
    times = []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        comm.Send(buffer, dest=other, tag=_PING)
        comm.Recv(buffer, source=other, tag=_PING)
        if repeat:  # the first one pays for fresh buffers
            times.append((time.perf_counter() - started) / 2)
    return times


def _pong(comm: Comm, other: int, size: int, repeats: int) -> None:
    buffer = np.zeros(size, np.uint8)
    for _ in range(repeats + 1):
        comm.Recv(buffer, source=other, tag=_PING)
        comm.Send(buffer, dest=other, tag=_PING)


def quiet_barrier(comm: Comm) -> None:
    """A barrier whose waiters sleep: MPI's own spins, on cores that others are being timed on."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(_PAUSE)


def gather_rows(comm: Comm, own: np.ndarray) -> np.ndarray:
    """(sum of m, k) float64 on rank 0: every rank's (m, k) rows, in the order of ranks; nothing on others."""
    counts = np.zeros(comm.size, np.int64)
    comm.Gather(np.array([own.size], np.int64), counts, root=0)
    if comm.rank:
        comm.Gatherv(np.ascontiguousarray(own), None, root=0)
        return own[:0]
    whole = np.empty(int(counts.sum()), np.float64)
    comm.Gatherv(np.ascontiguousarray(own), [whole, counts.tolist()], root=0)
    return whole.reshape(-1, own.shape[1])
