"""One shared link on which flows get weighted max-min rates: exact, in O(log N) per event.

At any moment a flow with cap c and weight w moves at `min(c, theta * w)`, where the water level theta is such that the
rates add up to the capacity when the link is saturated (weighted max-min fairness by water-filling: Bertsekas and
Gallager, "Data Networks", 2nd ed., section 6.5.2; it is what SimGrid's solver computes for one link). Flows below
their cap are *shared*: in virtual time V, the integral of theta, each ends at a constant V, so a change of theta moves
none of them (the idea of virtual time in fair queueing: Parekh and Gallager, IEEE/ACM ToN 1993). Flows at their cap
are *capped*: each ends at a constant real time. Two more heaps, keyed by cap/weight, tell who changes sides when the
level moves. Heap entries are deleted lazily: each carries the version of its flow.
"""

from __future__ import annotations

import math
from array import array
from heapq import heapify, heappop, heappush

import numpy as np

_IDLE, _SHARED, _CAPPED = 0, 1, 2
_INF = math.inf
# The gap between the two tolerances keeps a flow at the level from changing sides for ever.
CAP_FROM = 1 + 1e-12
SHARE_FROM = 1 + 1e-9
TOGETHER = 1e-9  # seconds: flows that end closer than this end together, as in SimGrid (precision/timing)
ROUNDING = 1e-14  # relative to the virtual time: its own few roundings, and no more
CLOCK_ROUNDING = 1e-15  # relative to the real time
_COMPACT_FROM = 1024

_Heap = list[tuple[float, int, int]]


class _Total:
    """A running sum that keeps what rounding takes away (Neumaier 1974): flows come and go millions of times."""

    __slots__ = ("_lost", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._lost = 0.0

    def add(self, term: float) -> None:
        total = self._sum + term
        arrived = total - self._sum
        self._lost += (self._sum - (total - arrived)) + (term - arrived)
        self._sum = total

    def value(self) -> float:
        return self._sum + self._lost


class SharedLink:
    """Flows 0 .. n-1 on one link; each is open at most once at a time.

    Between two changes: `open`, `close`, `cancel`, `rescale` and `resize` at one time, then `settle` once; `next_end`
    is then when the next flow ends if nothing else happens.

    Args:
        capacity: bytes/s of the link; infinite where it is no bottleneck.
        caps: (n,) float64, the most that each flow can take, bytes/s.
        weights: (n,) float64, each flow's share of the water level.
    """

    def __init__(self, capacity: float, caps: np.ndarray, weights: np.ndarray):
        count = len(caps)
        self.capacity = capacity
        self.next_end = _INF
        self._cap = _doubles(caps)
        self._weight = _doubles(weights)
        self._ratio = _doubles(np.asarray(caps, np.float64) / np.asarray(weights, np.float64))
        self._end = array("d", bytes(8 * count))  # virtual time for a shared flow, real time for a capped one
        self._version = array("q", bytes(8 * count))
        self._side = bytearray(count)
        self._time = 0.0
        self._virtual = 0.0
        self._level = _INF
        self._shared_weight = _Total()
        self._capped_rate = _Total()
        self._shared = 0
        self._capped = 0
        self._shared_ends: _Heap = []
        self._capped_ends: _Heap = []
        self._to_cap: _Heap = []  # shared flows by cap/weight: the smallest reaches its cap first
        self._to_share: _Heap = []  # capped flows by -cap/weight: the largest falls below its cap first

    def open(self, time: float, flow: int, size: float) -> None:
        """Start to move `size` bytes at `time`, which is not before any earlier call's.

        Raises:
            ValueError: the flow is open already.
        """
        if self._side[flow] != _IDLE:
            raise ValueError(f"flow {flow} is open already")
        self._advance(time)
        if self._ratio[flow] <= self._level:
            self._cap_flow(flow, size)
        else:
            self._share_flow(flow, size)

    def close(self, time: float) -> list[int]:
        """Take out the flows that end at `time`; the first to end come first."""
        self._advance(time)
        done = []
        virtual_slack = self._slack() * self._level if self._shared else 0.0
        while top := self._top(self._shared_ends):
            if top[0] > self._virtual + max(virtual_slack, ROUNDING * abs(top[0])):
                break
            self._remove(top[1])
            done.append(top[1])
        while (top := self._top(self._capped_ends)) and top[0] <= time + self._slack():
            self._remove(top[1])
            done.append(top[1])
        return done

    def cancel(self, time: float, flow: int) -> None:
        """Take out a flow that has not ended; one that is not open is passed over."""
        if self._side[flow] != _IDLE:
            self._advance(time)
            self._remove(flow)

    def rescale(self, time: float, flow: int, cap: float, weight: float) -> None:
        """Give a flow, open or not, another cap and weight."""
        self._advance(time)
        left = self._remove(flow) if self._side[flow] != _IDLE else None
        self._cap[flow], self._weight[flow], self._ratio[flow] = cap, weight, cap / weight
        if left is not None:
            self._share_flow(flow, left)  # `settle` caps it where that is its place

    def resize(self, time: float, capacity: float, caps: np.ndarray, weights: np.ndarray) -> None:
        """Give the link another capacity, and all flows other caps and weights: O(n)."""
        self._advance(time)
        left = [(flow, self._remove(flow)) for flow, side in enumerate(self._side) if side != _IDLE]
        self.capacity = capacity
        self._cap, self._weight, self._ratio = _doubles(caps), _doubles(weights), _doubles(caps / weights)
        for flow, size in left:
            self._share_flow(flow, size)

    def settle(self) -> None:
        """Find the water level for the flows now open, let flows change sides, and set `next_end`."""
        while self._move_one():
            pass
        self._compact()
        self.next_end = self._find_next_end()

    def _slack(self) -> float:
        return max(TOGETHER, CLOCK_ROUNDING * self._time)

    def _advance(self, time: float) -> None:
        if self._shared:
            self._virtual += self._level * (time - self._time)
        self._time = time

    def _water_level(self) -> float:
        """Level at which the rates fill the link; infinite when nothing is held back.

        It is 0 while every flow is capped and together they exceed the capacity: that makes `_move_one` share some.
        """
        if self._shared:
            return max((self.capacity - self._capped_rate.value()) / self._shared_weight.value(), 0.0)
        return _INF if self._capped_rate.value() <= self.capacity * CAP_FROM else 0.0

    def _move_one(self) -> bool:
        self._level = level = self._water_level()
        top = self._top(self._to_cap)
        if top and top[0] <= level * CAP_FROM:
            self._cap_flow(top[1], self._remove(top[1]))
            return True
        top = self._top(self._to_share)
        if top and -top[0] > level * SHARE_FROM:
            self._share_flow(top[1], self._remove(top[1]))
            return True
        return False

    def _share_flow(self, flow: int, size: float) -> None:
        end = self._virtual + size / self._weight[flow]
        version = self._version[flow]
        self._end[flow] = end
        self._side[flow] = _SHARED
        self._shared += 1
        self._shared_weight.add(self._weight[flow])
        heappush(self._shared_ends, (end, flow, version))
        heappush(self._to_cap, (self._ratio[flow], flow, version))

    def _cap_flow(self, flow: int, size: float) -> None:
        end = self._time + size / self._cap[flow]
        version = self._version[flow]
        self._end[flow] = end
        self._side[flow] = _CAPPED
        self._capped += 1
        self._capped_rate.add(self._cap[flow])
        heappush(self._capped_ends, (end, flow, version))
        heappush(self._to_share, (-self._ratio[flow], flow, version))

    def _remove(self, flow: int) -> float:
        """Take a flow out of its side; returns the bytes it has yet to move."""
        self._version[flow] += 1
        side, self._side[flow] = self._side[flow], _IDLE
        if side == _SHARED:
            left = (self._end[flow] - self._virtual) * self._weight[flow]
            self._shared -= 1
            self._shared_weight.add(-self._weight[flow])
            if not self._shared:
                self._shared_weight = _Total()
                self._virtual = 0.0  # a fresh start keeps virtual times small, hence precise
        else:
            left = (self._end[flow] - self._time) * self._cap[flow]
            self._capped -= 1
            self._capped_rate.add(-self._cap[flow])
            if not self._capped:
                self._capped_rate = _Total()
        return max(left, 0.0)

    def _top(self, heap: _Heap) -> tuple[float, int, int] | None:
        while heap:
            top = heap[0]
            if self._version[top[1]] == top[2]:
                return top
            heappop(heap)
        return None

    def _compact(self) -> None:
        """Drop outdated entries where they outnumber the open flows, so that memory does not grow with the rounds."""
        limit = _COMPACT_FROM + 3 * (self._shared + self._capped)
        for heap in (self._shared_ends, self._capped_ends, self._to_cap, self._to_share):
            if len(heap) > limit:
                heap[:] = [entry for entry in heap if self._version[entry[1]] == entry[2]]
                heapify(heap)

    def _find_next_end(self) -> float:
        end = _INF
        top = self._top(self._shared_ends)
        if top and self._level > 0:
            end = self._time + max(top[0] - self._virtual, 0.0) / self._level
        top = self._top(self._capped_ends)
        return min(end, top[0]) if top else end


def _doubles(values: np.ndarray) -> array[float]:
    return array("d", np.ascontiguousarray(values, np.float64).tobytes())
