"""The production engine: two shared links, exact on a star, O(log N) per event.

Pure Python for few clients, and kernels that numba compiles (`simulation.compiled`) for many where it is installed; the
arithmetic is the same.
"""

from __future__ import annotations

import importlib.util
import math
from array import array
from collections.abc import Callable
from heapq import heappop, heappush

from fedbound.errors import InputError
from fedbound.registry import ENGINES, Options
from fedbound.simulation.engines import Engine, Received, TimerDue
from fedbound.simulation.fluid import SharedLink
from fedbound.simulation.platform import SERVER, Direction, Star

_TIMER = len(Direction)  # the kinds of alarms: open a flow in a direction, or tell the driver
_BATCH = 1e-12  # seconds: alarms closer than this are handled together, and the links settle once


_COMPILED_FROM = 10_000  # clients: for fewer, loading numba takes longer than it saves


@ENGINES.register("fluid", Options)
def fluid(options: Options) -> Callable[[Star], Engine]:
    """Exact weighted max-min sharing on a star; needs nothing but Python, and is faster with numba."""
    return make


def make(star: Star) -> Engine:
    """The engine for this star: compiled where that pays and numba is there.

    Raises:
        InputError: the platform has sites.
    """
    if star.sites is None and len(star) >= _COMPILED_FROM and importlib.util.find_spec("numba") is not None:
        from fedbound.simulation.compiled import Compiled

        return Compiled(star)
    return Fluid(star)


class Fluid:
    """One simulation of one star.

    Raises:
        InputError: the platform has sites.
    """

    validity = "fluid: exact, as the platform is a star with one shared link each way"

    def __init__(self, star: Star):
        if star.sites is not None:
            raise InputError(
                "the simulation engine 'fluid' is exact for one shared link and takes no sites; choose 'simgrid'"
            )
        self.now = 0.0
        self.events = 0
        self._star = star
        self._bandwidth = star.client_bandwidth.copy()
        self._server_factor = 1.0
        self._links = [SharedLink(star.capacity(d), star.caps(d), star.weights(d)) for d in Direction]
        self._delays = star.delays().tolist()
        self._goodput = star.goodput_factor
        self._changed = [False] * len(Direction)
        self._sizes = [[0.0] * len(star) for _ in Direction]
        self._awaited = [array("q", bytes(8 * len(star))) for _ in Direction]  # alarm that will open the flow, or 0
        # Tuples of plain numbers only: the garbage collector stops looking at them.
        self._alarms: list[tuple[float, int, int, int]] = []
        self._asked = 0
        self._stopped = False

    def transfer(self, direction: Direction, client: int, size: float, delay: float) -> None:
        self._sizes[direction][client] = size / self._goodput
        self._awaited[direction][client] = self._alarm(self.now + delay + self._delays[client], direction, client)

    def cancel(self, direction: Direction, client: int) -> None:
        self._awaited[direction][client] = 0
        self._links[direction].cancel(self.now, client)
        self._changed[direction] = True

    def rescale(self, client: int, factor: float) -> None:
        star = self._star
        if client == SERVER:
            self._server_factor = factor
        else:
            self._bandwidth[client] = factor * star.client_bandwidth[client]
        for direction, link in zip(Direction, self._links, strict=True):
            capacity = self._server_factor * star.capacity(direction)
            who = slice(None) if client == SERVER else client
            ends = (self._bandwidth[who], capacity, star.latency[who])
            if client == SERVER:
                link.resize(self.now, capacity, star.cap(*ends), star.weight(*ends))
            else:
                link.rescale(self.now, client, float(star.cap(*ends)), float(star.weight(*ends)))
            self._changed[direction] = True

    def timer(self, time: float, key: int) -> None:
        self._alarm(max(time, self.now), _TIMER, key)

    def _alarm(self, time: float, kind: int, subject: int) -> int:
        self._asked += 1
        heappush(self._alarms, (time, self._asked, int(kind), subject))
        return self._asked

    def stop(self) -> None:
        self._stopped = True

    def run(self, received: Received, due: TimerDue) -> None:
        directions = list(zip(Direction, self._links, strict=True))
        while not self._stopped:
            first_alarm = self._alarms[0][0] if self._alarms else math.inf
            self.now = time = min(first_alarm, *[link.next_end for link in self._links])
            if time == math.inf:
                return
            for direction, link in directions:
                if link.next_end <= time:
                    self._changed[direction] = True
                    for client in link.close(time):
                        self.events += 1
                        received(direction, client)
            self._handle_alarms(time, due)
            for direction, link in directions:
                if self._changed[direction]:
                    self._changed[direction] = False
                    link.settle()

    def _handle_alarms(self, time: float, due: TimerDue) -> None:
        alarms, last = self._alarms, time + _BATCH
        while alarms and alarms[0][0] <= last and not self._stopped:
            _, asked, kind, subject = heappop(alarms)
            self.events += 1
            if kind == _TIMER:
                due(subject)
            elif self._awaited[kind][subject] == asked:
                self._awaited[kind][subject] = 0
                self._links[kind].open(time, subject, self._sizes[kind][subject])
                self._changed[kind] = True
