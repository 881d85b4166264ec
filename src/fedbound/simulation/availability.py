"""When clients are away: drawn at random, or read from a trace."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from fedbound.errors import InputError
from fedbound.simulation.draws import Pool


class Availability(Protocol):
    """Says when each client leaves and returns; a pure function, so that every engine sees the same absences."""

    def absence(self, client: int, index: int, since: float) -> tuple[float, float] | None:
        """(left, returned) of the client's absence number `index`, from 0; None where there is none.

        Args:
            client: from 0.
            index: number of this client's absences before.
            since: seconds; the end of the absence before, 0 at first.
        """
        ...


class Churn:
    """Every client is present and absent in turn, for exponentially distributed times of its own.

    Args:
        present: mean seconds until a client leaves.
        absent: mean seconds until it returns.
        seed: of the draws.

    Raises:
        InputError: a mean is not above 0.
    """

    def __init__(self, present: float, absent: float, seed: int = 0):
        for key, value in (("present", present), ("absent", absent)):
            if not 0 < value < math.inf:
                raise InputError(f"{key}: {value} is refused; give mean seconds above 0")
        self.present = present
        self.absent = absent
        middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        self.pool = Pool(-np.log(middles), seed)

    def absence(self, client: int, index: int, since: float) -> tuple[float, float] | None:
        left = since + self.present * self.pool.draw(client, 2 * index)
        return left, left + self.absent * self.pool.draw(client, 2 * index + 1)


class Trace:
    """Absences that are known.

    Args:
        rows: (client, left, returned), seconds; returned is infinite for who never comes back.

    Raises:
        InputError: a time is negative or no number, or two absences of one client overlap.
    """

    def __init__(self, rows: Iterable[tuple[int, float, float]]):
        self.rows: dict[int, list[tuple[float, float]]] = {}
        for client, left, returned in sorted(rows):
            before = self.rows.setdefault(client, [])
            if not (left >= 0 and returned > left):
                raise InputError(
                    f"an absence of client {client} from {left} to {returned} s is refused; give a time from 0 and a "
                    "later one"
                )
            if before and before[-1][1] >= left:
                raise InputError(f"two absences of client {client} overlap at {left} s; give one after the other")
            before.append((float(left), float(returned)))

    def absence(self, client: int, index: int, since: float) -> tuple[float, float] | None:
        rows = self.rows.get(client, [])
        return rows[index] if index < len(rows) else None


_QUANTILES = 65536
