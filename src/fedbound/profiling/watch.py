"""How busy a node is while rounds run: processor, GPU and network, sampled by a thread of one rank of each node."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fedbound.profiling.nodes import load_nvml

INTERVAL = 0.05  # seconds; a sample takes some 0.1 ms of it
_KEYS = ("node", "time", "cpu", "gpu", "gpu_memory", "sent", "received")
_NAN = float("nan")


class Watch:
    """Samples this process's node between `with` and its end.

    Args:
        node: the node's number.
        interval: seconds between samples.
    """

    def __init__(self, node: int, interval: float = INTERVAL):
        self.node = node
        self.interval = interval
        self.rows: list[tuple[float, ...]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        before = (time.time(), *_ticks(), *_traffic())
        while not self._over.wait(self.interval):
            now = (time.time(), *_ticks(), *_traffic())
            seconds, busy, idle, sent, received = (b - a for a, b in zip(before, now, strict=True))
            cpu = busy / (busy + idle) if busy + idle > 0 else _NAN
            self.rows.append((self.node, now[0], cpu, *_gpu(), sent / seconds, received / seconds))
            before = now

    def array(self) -> np.ndarray:
        """(m, 7) float64: node, wall-clock time, and the figures of the table PROFILE_UTILISATION."""
        return np.array(self.rows, np.float64).reshape(-1, len(_KEYS))


def rows(samples: np.ndarray, ends: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of the table PROFILE_UTILISATION.

    Args:
        samples: (m, 7) of all nodes, from `Watch.array`.
        ends: wall-clock times at which the federation's rounds ended, the first one that of the warm-up; samples
            after the last are left out.
    """
    if not len(samples) or not ends:
        return []
    start = samples[:, 1].min()
    found = []
    for sample in samples[np.lexsort((samples[:, 1], samples[:, 0]))]:
        row: dict[str, Any] = dict(zip(_KEYS, map(float, sample), strict=True))
        round_ = int(np.searchsorted(ends, row["time"]))
        if round_ < len(ends):
            found.append(row | {"node": int(row["node"]), "time": row["time"] - start, "round": round_})
    return found


def _ticks() -> tuple[float, float]:
    """Busy and idle ticks of the cores that this process may use; NaN where there is no /proc."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return _NAN, _NAN
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    values = np.array([line.split()[1:9] for line in lines if line.split()[0] in mine], float).sum(axis=0)
    idle = float(values[3] + values[4])
    return float(values.sum()) - idle, idle


def _traffic() -> tuple[float, float]:
    """Bytes sent and received by the node's network, its loopback aside; NaN where there is no /proc."""
    try:
        lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return _NAN, _NAN
    fields = [line.replace(":", " ").split() for line in lines]
    others = [one for one in fields if one[0] != "lo"]
    return float(sum(int(one[9]) for one in others)), float(sum(int(one[1]) for one in others))


def _gpu() -> tuple[float, float]:
    """Mean utilisation of the node's GPUs and the used share of their memory; NaN without NVML."""
    nvml = load_nvml()
    if nvml is None:
        return _NAN, _NAN
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        busy = [nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100 for handle in handles]
        memory = [nvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
    except nvml.NVMLError:
        return _NAN, _NAN
    if not handles:
        return _NAN, _NAN
    return float(np.mean(busy)), float(np.mean([one.used / one.total for one in memory]))
