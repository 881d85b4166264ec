"""Clients whose ranks share a node's cores: the more of them compute at once, the slower is each."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedbound.errors import InputError


@dataclass(frozen=True)
class Cores:
    """How much slower clients compute beside each other.

    Attributes:
        node: (n,) int, the node of each client, from 0.
        slowdown: for each node, how many times longer a client's work takes when 1, 2, ... of its clients compute at
            once, not decreasing. Beyond the last, time grows as the number of clients does.

    Raises:
        InputError: a client is on a node that is not there, or a slowdown is below 1 or decreases.
    """

    node: np.ndarray
    slowdown: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        if len(self.node) and not 0 <= int(np.min(self.node)) <= int(np.max(self.node)) < len(self.slowdown):
            raise InputError(f"cores.node: there are {len(self.slowdown)} nodes from 0; give each client one of them")
        for one in self.slowdown:
            if not len(one) or one[0] < 1 or (np.diff(one) < 0).any() or not np.isfinite(one).all():
                raise InputError(f"cores.slowdown: {list(one)} is refused; give numbers from 1 that do not decrease")

    def factor(self, node: int, working: int) -> float:
        """How many times longer work takes on `node` while `working` clients compute there."""
        known = self.slowdown[node]
        if working <= len(known):
            return float(known[working - 1])
        return float(known[-1]) * working / len(known)


@dataclass
class _Node:
    """Clients at work, in virtual time: seconds of work that each of them has done since the start."""

    done: float = 0.0
    since: float = 0.0
    finish: list[tuple[float, int, int]] = field(default_factory=list)  # (done at the end, client, task)
    tasks: dict[int, int] = field(default_factory=dict)  # client -> task at work
    alarm: int = 0  # number of the alarm that counts


class Processors:
    """The clients' processors while a simulation runs: all at work on a node advance alike.

    Args:
        cores: what the nodes are.
        alarm: called with (time, node, number) when a node wants `due(node, number, time)` at that time.
    """

    def __init__(self, cores: Cores, alarm: Callable[[float, int, int], None]):
        self.cores = cores
        self.alarm = alarm
        self.nodes = [_Node() for _ in cores.slowdown]

    def join(self, client: int, task: int, work: float, now: float) -> None:
        """`client` begins `work`, seconds if it were alone."""
        number = int(self.cores.node[client])
        node = self._advance(number, now)
        node.tasks[client] = task
        heapq.heappush(node.finish, (node.done + work, client, task))
        self._set(number, now)

    def leave(self, client: int, now: float) -> None:
        """`client` gives up what it is at, if it is at work."""
        number = int(self.cores.node[client])
        if client in self.nodes[number].tasks:
            del self._advance(number, now).tasks[client]
            self._set(number, now)

    def due(self, number: int, alarm: int, now: float) -> list[int]:
        """Clients of a node that end their work now; none where the alarm is outdated."""
        node = self.nodes[number]
        if alarm != node.alarm:
            return []
        first = self._first(node)
        assert first is not None  # an alarm that counts is that of a client at work
        node.done, node.since = first, now
        ended = []
        while self._first(node) == first:
            client = heapq.heappop(node.finish)[1]
            del node.tasks[client]
            ended.append(client)
        self._set(number, now)
        return ended

    def _advance(self, number: int, now: float) -> _Node:
        node = self.nodes[number]
        if node.tasks:
            node.done += (now - node.since) / self.cores.factor(number, len(node.tasks))
        node.since = now
        return node

    def _first(self, node: _Node) -> float | None:
        """When, in virtual time, the next client ends; entries of who has left are dropped."""
        while node.finish and node.tasks.get(node.finish[0][1]) != node.finish[0][2]:
            heapq.heappop(node.finish)
        return node.finish[0][0] if node.finish else None

    def _set(self, number: int, now: float) -> None:
        node = self.nodes[number]
        node.alarm += 1
        first = self._first(node)
        if first is not None:
            left = max(0.0, first - node.done) * self.cores.factor(number, len(node.tasks))
            self.alarm(now + left, number, node.alarm)
