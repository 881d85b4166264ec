"""The fluid engine, compiled: as `engines.fluid.Fluid`, for many clients and where numba is installed.

The kernels go on by themselves from one end of a transfer to the next; Python hears of those and of timers alone.
"""

from __future__ import annotations

import math
from array import array
from heapq import heappop, heappush
from typing import Any

import numpy as np

from fedbound.simulation import kernels
from fedbound.simulation.engines import Received, TimerDue
from fedbound.simulation.platform import SERVER, Direction, Star


class Compiled:
    """One simulation of one star without sites."""

    validity = "fluid: exact, as the platform is a star with one shared link each way"

    def __init__(self, star: Star):
        count = len(star)
        self.now = 0.0
        self.events = 0
        self._star = star
        self._count = count
        self._bandwidth = star.client_bandwidth.copy()
        self._server_factor = 1.0
        self._flows = np.zeros((2 * count, kernels.FLOW))
        for direction in Direction:
            rows = self._flows[direction * count : (direction + 1) * count]
            rows[:, kernels.CAP], rows[:, kernels.WEIGHT] = star.caps(direction), star.weights(direction)
        self._flows[:, kernels.RATIO] = self._flows[:, kernels.CAP] / self._flows[:, kernels.WEIGHT]
        self._links = np.zeros((len(Direction), kernels.LINK))
        self._links[:, kernels.CAPACITY] = [star.capacity(direction) for direction in Direction]
        self._links[:, [kernels.LEVEL, kernels.NEXT]] = math.inf
        room = 2 * count + 2 * kernels.SPARE  # only what is used of it takes memory
        self._keys = np.empty((2 * kernels.HEAPS + 1, room))
        self._tags = np.empty((2 * kernels.HEAPS + 1, room), np.int64)
        self._sizes = np.zeros(2 * kernels.HEAPS + 1, np.int64)
        self._state = (self._flows, self._links, self._keys, self._tags, self._sizes)
        self._delays = array("d", star.delays().tobytes())
        self._goodput = star.goodput_factor
        self._sizes_of_flows: Any = self._flows.reshape(-1).data[kernels.SIZE :: kernels.FLOW]
        # Transfers asked for since the kernels last ran: when, and which flow. Flows that end come back in the same.
        self._most = 2 * count
        self._wanted, self._asked = np.zeros(self._most), np.zeros(self._most, np.int64)
        self._wanted_view: Any = self._wanted.data  # numpy's own setter takes three times as long
        self._asked_view: Any = self._asked.data
        self._pending = 0
        self._ticket = 1
        self._timers: list[tuple[float, int, int]] = []
        self._timers_asked = 0
        self._stopped = False

    def transfer(self, direction: Direction, client: int, size: float, delay: float) -> None:
        flow = direction * self._count + client
        at = self._pending
        if at == self._most:
            self._take_in()
            at = 0
        self._sizes_of_flows[flow] = size / self._goodput
        self._wanted_view[at] = self.now + delay + self._delays[client]
        self._asked_view[at] = flow
        self._pending = at + 1

    def _take_in(self) -> None:
        kernels.ask(self._flows, *self._state[2:], self._wanted, self._asked, self._pending, self._ticket)
        self._ticket += self._pending
        self._pending = 0

    def cancel(self, direction: Direction, client: int) -> None:
        self._take_in()
        kernels.cancel(self._flows, self._links, direction * self._count + client, self.now)

    def rescale(self, client: int, factor: float) -> None:
        star, count = self._star, self._count
        self._take_in()
        if client == SERVER:
            self._server_factor = factor
        else:
            self._bandwidth[client] = factor * star.client_bandwidth[client]
        for d in Direction:
            capacity = self._server_factor * star.capacity(d)
            who = slice(None) if client == SERVER else client
            ends = (self._bandwidth[who], capacity, star.latency[who])
            cap, weight = star.cap(*ends), star.weight(*ends)
            if client == SERVER:
                kernels.resize(*self._state, int(d), self.now, capacity, cap, weight)
            else:
                kernels.rescale(*self._state, d * count + client, self.now, float(cap), float(weight))

    def timer(self, time: float, key: int) -> None:
        self._timers_asked += 1
        heappush(self._timers, (max(time, self.now), self._timers_asked, key))

    def stop(self) -> None:
        self._stopped = True

    def run(self, received: Received, due: TimerDue) -> None:
        count, timers, state, advance = self._count, self._timers, self._state, kernels.run
        wanted, asked, asked_view = self._wanted, self._asked, self._asked_view
        down, up = Direction
        while not self._stopped:
            until = timers[0][0] if timers else math.inf
            now, number, opened = advance(*state, wanted, asked, self._pending, self._ticket, self.now, until)
            self._ticket += self._pending
            self._pending = 0
            self.events += opened + number
            if now == math.inf:
                return
            self.now = now
            for flow in asked_view[:number].tolist():
                if flow < count:
                    received(down, flow)
                else:
                    received(up, flow - count)
            last = now + kernels.BATCH
            while timers and timers[0][0] <= last and not self._stopped:
                self.events += 1
                due(heappop(timers)[2])
