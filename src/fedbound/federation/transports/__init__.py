"""Transports: how messages get from the server to silos and back. `local` in one process, `mpi` between ranks.

A transport moves opaque bytes of the wire format and counts nothing, times nothing and interprets nothing, so that
another one (gRPC between institutions) is one more file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Transport(Protocol):
    """The server's end."""

    silos: int

    def send(self, silo: int, message: bytearray) -> None:
        """Send without waiting for the receiver. The message must not be changed afterwards."""
        ...

    def receive(self, timeout: float | None = None) -> tuple[int, Any] | None:
        """The next message of any silo and its bytes; None after `timeout` seconds without one."""
        ...

    def close(self, lost: Sequence[int] = ()) -> None:
        """Wait until what was sent has left, but for what was sent to `lost` silos."""
        ...


class Reducing(Transport, Protocol):
    """A server's end whose silos' ends can add up vectors between them."""

    def reduce(self, out: np.ndarray, timeout: float | None = None) -> None:
        """Write the sum of all silos' parts into `out` (flat float32); each must have sent its update.

        Raises:
            FederationError: a silo has no part, a rank failed, or it was not done after `timeout` seconds.
        """
        ...
