"""All silos in one process: for tests, for calibration's probes, and for machines without MPI."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedbound.federation.silo import Silo
from fedbound.federation.transports import reduction


class LocalTransport:
    """Silos answer when the server waits, one after the other in the order they were sent to.

    The messages are the very bytes that another transport would carry.
    """

    def __init__(self, silos: dict[int, Silo]):
        self.members = silos
        self.silos = len(silos)
        self.queue: deque[tuple[int, bytearray]] = deque()

    def send(self, silo: int, message: bytearray) -> None:
        self.queue.append((silo, message))

    def receive(self, timeout: float | None = None) -> tuple[int, Any] | None:
        while self.queue:
            silo, message = self.queue.popleft()
            answer = self.members[silo].handle(message)
            if answer is not None:
                return silo, answer
        return None

    def reduce(self, out: np.ndarray, timeout: float | None = None) -> None:
        """See `transports.Reducing`: a plain sum in the order of the silos' numbers."""
        out[:] = reduction.parts(self.members)

    def close(self, lost: Sequence[int] = ()) -> None:
        self.queue.clear()
