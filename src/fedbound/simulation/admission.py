"""How many transfers the server handles at once: slots, first come first served."""

from __future__ import annotations

from array import array
from collections import deque

from fedbound.simulation.engines import Engine
from fedbound.simulation.platform import Direction

_OUT, _QUEUED, _MOVING = 0, 1, 2


class Admission:
    """Transfer slots in one direction; None serves all at once.

    A slot is held from admission, before the latency, to the end of the transfer.

    Args:
        engine: moves the bytes.
        direction: of the transfers.
        sizes: (n,) bytes of each client's transfer.
        slots: transfers at once; None for no limit.
    """

    def __init__(self, engine: Engine, direction: Direction, sizes: array[float], slots: int | None):
        self.engine = engine
        self.direction = direction
        self.sizes = sizes
        self.unlimited = slots is None
        self.free = slots or 0
        self.queue: deque[tuple[int, int]] = deque()  # client, ticket; cancelled entries stay until their turn
        self.state = bytearray(len(sizes))
        self.tickets = array("q", bytes(8 * len(sizes)))
        self.moved = 0.0

    def transfer(self, client: int, delay: float) -> None:
        """Begin the client's transfer `delay` seconds from now; only without a limit."""
        self.state[client] = _MOVING
        self.engine.transfer(self.direction, client, self.sizes[client], delay)

    def join(self, client: int) -> None:
        """Ask now for the client's transfer."""
        if self.unlimited:
            self.transfer(client, 0.0)
            return
        self.state[client] = _QUEUED
        self.queue.append((client, self.tickets[client]))
        self._admit()

    def ended(self, client: int) -> None:
        """The engine has reported the end of the client's transfer."""
        self.moved += self.sizes[client]
        self._leave(client)

    def cancel(self, client: int) -> None:
        """Give up the client's transfer, if there is one."""
        if self.state[client] == _MOVING:
            self.engine.cancel(self.direction, client)
        if self.state[client] != _OUT:
            self.tickets[client] += 1
            self._leave(client)

    def _leave(self, client: int) -> None:
        held, self.state[client] = self.state[client] == _MOVING, _OUT
        if held and not self.unlimited:
            self.free += 1
            self._admit()

    def _admit(self) -> None:
        while self.free and self.queue:
            client, ticket = self.queue.popleft()
            if ticket == self.tickets[client]:
                self.free -= 1
                self.transfer(client, 0.0)
