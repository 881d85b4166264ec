"""Links of a wanted speed between MPI ranks: token buckets above MPI, so that any machine can check predictions.

The server's rank keeps the clock for both directions. A message goes in chunks. A chunk of silo i may go when the
bucket of its own link and that of the server's link, which all silos share, have tokens; silos that may go take turns.
Downloads are sent so; for uploads the server grants a chunk and the silo sends it. A bucket that was served late may
catch up by at most `BURST` seconds of its rate.

The shaper runs while the server waits for messages; while it decodes or folds, nothing moves but what catches up later.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpi4py import MPI

CHUNK = 32768  # bytes, at most; all chunks of a direction are alike, or turns would not be fair
_CHUNK_SECONDS = 0.01  # of the slowest share
BURST = 0.03  # seconds
_ANNOUNCE, _GRANT, _UP, _DOWN = 11, 12, 13, 14  # MPI tags
_PAUSE = 0.5e-3


@dataclass(frozen=True)
class Shape:
    """Speeds of the emulated links; infinite for none.

    Attributes:
        server: bytes/s of the server's link, each way.
        silos: bytes/s of each silo's link, each way.
        latency: seconds before the first chunk of a message.
    """

    server: float
    silos: tuple[float, ...]
    latency: float = 0.0


class Shaper:
    """Who may move a chunk next, in one direction.

    Args:
        server: bytes/s that all share.
        silos: bytes/s of each silo.
    """

    def __init__(self, server: float, silos: Sequence[float]):
        self.server = server
        self.silos = list(silos)
        slowest = min(*self.silos, server / len(self.silos))
        self.chunk = int(min(CHUNK, max(512, _CHUNK_SECONDS * slowest)))
        self.left = [0] * len(self.silos)  # bytes of the message under way
        self.ready = [0.0] * len(self.silos)  # when the silo's bucket has tokens again
        self.server_ready = 0.0
        self.turn: deque[int] = deque()

    def begin(self, silo: int, size: int, at: float) -> None:
        """A message of `size` bytes may move from time `at`."""
        if self.left[silo]:
            raise ValueError(f"silo {silo} has a message under way")
        self.left[silo] = size
        self.ready[silo] = max(self.ready[silo], at)
        if not self.turn:
            self.server_ready = max(self.server_ready, at)
        self.turn.append(silo)

    def take(self, now: float) -> tuple[int, int] | None:
        """(silo, bytes) of the next chunk, or None where nobody may move at `now`."""
        if self.server_ready > now:
            return None
        for _ in range(len(self.turn)):
            silo = self.turn.popleft()
            if self.ready[silo] > now:
                self.turn.append(silo)
                continue
            size = min(self.chunk, self.left[silo])
            self.left[silo] -= size
            self.ready[silo] = max(self.ready[silo], now - BURST) + size / self.silos[silo]
            self.server_ready = max(self.server_ready, now - BURST) + size / self.server
            if self.left[silo]:
                self.turn.append(silo)
            return silo, size
        return None

    def next_time(self) -> float:
        """When `take` may give something again; infinite where nothing is under way."""
        if not self.turn:
            return math.inf
        return max(self.server_ready, min(self.ready[silo] for silo in self.turn))


class ShapedTransport:
    """The server's end (protocol `fedbound.federation.transports.Transport`).

    Args:
        comm: rank 0 is the server, rank k + 1 silo k.
        shape: the links.
    """

    def __init__(self, comm: MPI.Intracomm, shape: Shape):
        self.comm = comm
        self.silos = comm.size - 1
        self.latency = shape.latency
        self.down = Shaper(shape.server, shape.silos)
        self.up = Shaper(shape.server, shape.silos)
        self.waiting: list[deque[tuple[bytearray, float]]] = [deque() for _ in range(self.silos)]
        self.outgoing: list[memoryview] = [memoryview(b"")] * self.silos
        self.incoming: list[bytearray] = [bytearray() for _ in range(self.silos)]
        self.expected = [0] * self.silos
        self.complete: deque[tuple[int, bytearray]] = deque()
        self.sending: list[tuple[Any, Any]] = []

    def send(self, silo: int, message: bytearray) -> None:
        self.waiting[silo].append((message, time.monotonic() + self.latency))
        self._begin(silo)

    def receive(self, timeout: float | None = None) -> tuple[int, Any] | None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not self.complete:
            self._move()
            if self.complete or time.monotonic() >= deadline:
                break
            wake = min(self.down.next_time(), self.up.next_time(), deadline, time.monotonic() + _PAUSE)
            time.sleep(max(0.0, wake - time.monotonic()))
        return self.complete.popleft() if self.complete else None

    def close(self, lost: Sequence[int] = ()) -> None:
        while any(self.waiting) or any(self.down.left):
            self._move()
            time.sleep(_PAUSE)
        for request, _ in self.sending:
            request.Wait()
        self.sending = []

    def _begin(self, silo: int) -> None:
        """Put the silo's next message under way, its length first."""
        if self.down.left[silo] or not self.waiting[silo]:
            return
        message, at = self.waiting[silo].popleft()
        self.outgoing[silo] = memoryview(message)
        self._isend(silo, len(message).to_bytes(8, "little"), _DOWN)
        self.down.begin(silo, len(message), at)

    def _move(self) -> None:
        """Take in what has come, and let move what may."""
        self._take_in()
        now = time.monotonic()
        while (chunk := self.down.take(now)) is not None:
            silo, size = chunk
            self._isend(silo, self.outgoing[silo][:size], _DOWN)
            self.outgoing[silo] = self.outgoing[silo][size:]
            self._begin(silo)
        while (chunk := self.up.take(now)) is not None:
            silo, size = chunk
            self._isend(silo, size.to_bytes(8, "little"), _GRANT)
        self.sending = [(request, kept) for request, kept in self.sending if not request.Test()]

    def _take_in(self) -> None:
        while (found := _probe(self.comm, (_ANNOUNCE, _UP))) is not None:
            source, tag, content = found
            silo = source - 1
            if tag == _ANNOUNCE:
                self.expected[silo] = int.from_bytes(content, "little")
                self.incoming[silo] = bytearray()
                self.up.begin(silo, self.expected[silo], time.monotonic() + self.latency)
                continue
            self.incoming[silo] += content
            if len(self.incoming[silo]) == self.expected[silo]:
                self.complete.append((silo, self.incoming[silo]))

    def _isend(self, silo: int, content: bytes | memoryview, tag: int) -> None:
        self.sending.append((self.comm.Isend(_bytes(content), dest=silo + 1, tag=tag), content))


class ShapedEndpoint:
    """A silo rank's end."""

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm

    def receive(self) -> tuple[int, Any]:
        size = int.from_bytes(self._next(_DOWN), "little")
        buffer = bytearray()
        while len(buffer) < size:
            buffer += self._next(_DOWN)
        return self.comm.rank - 1, buffer

    def send(self, silo: int, message: bytearray) -> None:
        self.comm.Send(_bytes(len(message).to_bytes(8, "little")), dest=0, tag=_ANNOUNCE)
        left = memoryview(message)
        while len(left):
            size = int.from_bytes(self._next(_GRANT), "little")
            self.comm.Send(_bytes(left[:size]), dest=0, tag=_UP)
            left = left[size:]

    def _next(self, tag: int) -> bytearray:
        while (found := _probe(self.comm, (tag,))) is None:
            time.sleep(_PAUSE)
        return found[2]


def _probe(comm: MPI.Intracomm, tags: tuple[int, ...]) -> tuple[int, int, bytearray] | None:
    """(rank, tag, bytes) of a message with one of the tags, or None."""
    from mpi4py import MPI

    status = MPI.Status()
    for tag in tags:
        matched = comm.Improbe(MPI.ANY_SOURCE, tag, status)
        if matched is not None:
            buffer = bytearray(status.Get_count(MPI.BYTE))
            matched.Recv(_bytes(buffer))
            return status.Get_source(), tag, buffer
    return None


def _bytes(buffer: Any) -> list[Any]:
    from mpi4py import MPI

    return [buffer, len(buffer), MPI.BYTE]
