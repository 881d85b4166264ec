"""The reference engine: SimGrid 4.1 by its Python task graph, in a process of its own.

SimGrid allows one simulation per process, so a worker process holds it and this engine is the near end of a pipe:
each line from the worker is one event, each line back the list of what the driver wants next, both plain JSON.
Source: Casanova et al., "Versatile, scalable, and accurate simulation of distributed applications and platforms",
JPDC 74(10), 2014.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from heapq import heappop, heappush
from typing import IO, Any

from fedbound.errors import FedboundError, InputError
from fedbound.registry import ENGINES, Options
from fedbound.simulation.engines import Received, TimerDue
from fedbound.simulation.platform import Direction, Star

_NO_LATENCY = 1e-12  # seconds paid per second: below SimGrid's precision


@ENGINES.register("simgrid", Options)
def simgrid(options: Options) -> Callable[[Star], SimGrid]:
    """SimGrid's own solver (model LV08): the reference, O(N^2) and more where flows contend."""
    return SimGrid


class SimGrid:
    """One simulation of one star.

    Raises:
        InputError: the package simgrid is missing, or the star has equal weights, which LV08 cannot express.
    """

    validity = "simgrid: SimGrid's own max-min solver, the reference"

    def __init__(self, star: Star):
        if importlib.util.find_spec("simgrid") is None:
            raise InputError(
                "the simulation engine 'simgrid' needs the Python package simgrid, which is not installed; "
                "run 'make simgrid', or choose the engine 'fluid'"
            )
        if star.weight_s is None:
            raise InputError("the simulation engine 'simgrid' has no equal weights; set weight_s or choose 'fluid'")
        self.now = 0.0
        self.events = 0
        self._star = star
        self._wanted: list[list[Any]] = []
        self._timers: list[tuple[float, int, int]] = []
        self._asked = 0

    def transfer(self, direction: Direction, client: int, size: float, delay: float) -> None:
        self.events += 1
        if self._star.changes:
            delay += self._star.latency_factor * self._star.latency[client]
        self._wanted.append(["transfer", int(direction), client, float(size), float(delay)])

    def cancel(self, direction: Direction, client: int) -> None:
        self._wanted.append(["cancel", int(direction), client])

    def rescale(self, client: int, factor: float) -> None:
        self._wanted.append(["rescale", client, float(factor)])

    def timer(self, time: float, key: int) -> None:
        time = max(time, self.now)
        self._asked += 1
        heappush(self._timers, (time, self._asked, key))
        self._wanted.append(["timer", float(time - self.now)])

    def stop(self) -> None:
        self._wanted.append(["stop"])

    def run(self, received: Received, due: TimerDue) -> None:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "fedbound.simulation.simgrid_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            with worker:
                try:
                    ended = self._converse(worker, received, due)
                except BaseException:
                    worker.kill()
                    raise
            if worker.returncode or not ended:
                raise FedboundError(f"SimGrid failed at {self.now:g} simulated seconds: {_last_line(log)}")

    def _converse(self, worker: subprocess.Popen[str], received: Received, due: TimerDue) -> bool:
        """Answer the worker's events; returns whether it came to an end, rather than broke off."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            self._tell(worker.stdin, _describe(self._star))
            self._flush(worker.stdin)
            for line in worker.stdout:
                time, kind, client = json.loads(line)
                self.now = time
                if kind == "end":
                    return True
                self.events += 1
                if kind == "timer":
                    # SimGrid reports timers of one instant in any order; here the first asked for is the first due.
                    due(heappop(self._timers)[2])
                else:
                    received(Direction(kind), client)
                self._flush(worker.stdin)
        except BrokenPipeError:
            return False
        return False

    def _flush(self, pipe: IO[str]) -> None:
        wanted, self._wanted = self._wanted, []
        self._tell(pipe, wanted)

    def _tell(self, pipe: IO[str], value: Any) -> None:
        pipe.write(json.dumps(value))
        pipe.write("\n")
        pipe.flush()


def _describe(star: Star) -> dict[str, Any]:
    """The star, as the worker wants it.

    Where bandwidths change, two of SimGrid 4.1's ways are stepped around (its `network_cm02.cpp`): a link's change
    lets transfers begin that have yet to pay their latency, so that is paid before, by `transfer`; and a transfer is
    for ever bound by the bandwidths of its start, so it starts at each link's highest (`peaks`, as factors).
    """
    peaks: dict[int, float] = {}
    for change in star.changes:
        peaks[change.client] = max(peaks.get(change.client, 1.0), change.factor)
    return {
        "server": {d.name: star.capacity(d) if star.capacity(d) < float("inf") else None for d in Direction},
        "bandwidth": star.client_bandwidth.tolist(),
        "latency": star.latency.tolist(),
        "peaks": [*peaks.items()],
        "sites": None if star.sites is None else star.sites.tolist(),
        "site_bandwidth": None if star.site_bandwidth is None else star.site_bandwidth.tolist(),
        "settings": {
            "network/bandwidth-factor": star.goodput_factor,
            # never 0: SimGrid would give each transfer the weight 1
            "network/latency-factor": _NO_LATENCY if star.changes else star.latency_factor,
            "network/weight-S": star.weight_s,
            "network/TCP-gamma": star.tcp_gamma if star.tcp_gamma < float("inf") else 0,
        },
    }


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
