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
from pathlib import Path
from typing import IO, Any

from pydantic import Field, model_validator

from fedbound.artifacts import files_digest
from fedbound.errors import FedboundError, InputError
from fedbound.registry import ENGINES, Options
from fedbound.simulation.engines import Received, TimerDue
from fedbound.simulation.platform import Direction, Star
from fedbound.simulation.simgrid_worker import REFUSED

_NO_LATENCY = 1e-12  # seconds paid per second: below SimGrid's precision


class SimGridOptions(Options):
    """Options of `simgrid`."""

    platform: str = Field(
        default="",
        description="SimGrid platform file (XML) whose network is simulated instead of a star; every host but the "
        "server is a client, in the order of names, and where there are more clients they are dealt out in turn",
    )
    server: str = Field(default="server", min_length=1, description="the platform's host that is the server")
    platform_digest: str = Field(
        default="", description="SHA-256 of the platform file; filled in, so that an edit there is another scenario"
    )

    @model_validator(mode="after")
    def _found(self) -> SimGridOptions:
        if self.platform and not self.platform_digest:
            try:
                object.__setattr__(self, "platform_digest", files_digest([self.platform]))
            except InputError as error:
                raise ValueError(str(error)) from None
        return self


@ENGINES.register("simgrid", SimGridOptions)
def simgrid(options: SimGridOptions) -> Callable[[Star], SimGrid]:
    """SimGrid's own solver (model LV08): the reference, O(N^2) and more where flows contend; on any platform."""
    if not options.platform:
        return SimGrid
    if files_digest([options.platform]) != options.platform_digest:
        raise InputError(f"simulation.engine.platform: {options.platform} has changed since the study was planned")
    return lambda star: SimGrid(star, options.platform, options.server)


def check_platform(path: str, server: str) -> None:
    """Let SimGrid read a platform file, and look for the server and for routes between it and all other hosts.

    Without SimGrid the file's own reading is left to the job.

    Raises:
        InputError: SimGrid refuses the file, or something is missing there.
    """
    if importlib.util.find_spec("simgrid") is None:
        return
    command = [sys.executable, "-m", "fedbound.simulation.simgrid_worker", "--check", path, server]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(_reason(done.stderr))


class SimGrid:
    """One simulation of one star, or of the platform in a file with as many clients as the star has.

    Raises:
        InputError: the package simgrid is missing, the star has equal weights, which LV08 cannot express, or what
            cannot be done on a platform of a file: absences, and bandwidths that change.
    """

    def __init__(self, star: Star, platform: str = "", server: str = "server"):
        self.validity = "simgrid: SimGrid's own max-min solver, the reference"
        if platform:
            self.validity = f"simgrid: SimGrid's own max-min solver, on the platform {Path(platform).name}"
            if star.changes:
                raise InputError(f"the bandwidths of the platform {platform} cannot change; remove the changes")
        self._platform, self._server = platform, server
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
        if self._platform:
            raise InputError(f"on the platform {self._platform} no client can leave; remove the absences")
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
                if self._platform and not self.now:
                    log.seek(0)
                    raise InputError(_reason(log.read()))
                raise FedboundError(f"SimGrid failed at {self.now:g} simulated seconds: {_last_line(log)}")

    def _converse(self, worker: subprocess.Popen[str], received: Received, due: TimerDue) -> bool:
        """Answer the worker's events; returns whether it came to an end, rather than broke off."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            self._tell(worker.stdin, {**_describe(self._star), "platform": self._platform, "host": self._server})
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


def _reason(printed: str) -> str:
    """The worker's own sentence, or SimGrid's last word."""
    lines = [line for line in printed.strip().splitlines() if line.strip()] or ["it gave no reason"]
    own = [line.removeprefix(REFUSED) for line in lines if line.startswith(REFUSED)]
    said = [line.partition(": ")[2] for line in lines if line.startswith(("RuntimeError", "ValueError"))]
    return own[-1] if own else f"SimGrid refuses the platform: {(said or lines)[-1]}"


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
