"""The sum of a vector over ranks: one MPI Reduce to rank 0, in pieces below 2^31 bytes, that no failing rank can hang.

No rank enters it before rank 0 says so, by an empty message, and rank 0 says so when every silo's update is there. So
nobody waits in it for a silo that still trains, and nothing is under way when a run ends by its policy. From then on
the values are on their way, so that ranks give their core to others between two looks, but do not sleep for long.

In which order MPI adds is its own affair; its standard advises that equal calls give equal bits, and MPICH's do for the
same ranks on the same nodes. Two silo ranks give the bits of a plain sum.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.errors import FederationError

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Comm

    from fedbound.federation.silo import Silo

PIECE = 1 << 28  # float32 values: a gibibyte
_EAGER = 2e-3  # seconds of looking again at once
_PAUSE = 50e-6


def parts(silos: Mapping[int, Silo]) -> np.ndarray | None:
    """The parts of this process's silos, added up in the order of their numbers; None where it has none.

    Raises:
        FederationError: one of them has none.
    """
    total = None
    for number in sorted(silos):
        part = silos[number].uplink.take()  # type: ignore[attr-defined]  # of a reduced run
        with np.errstate(over="ignore", invalid="ignore"):  # the server looks at the sum
            total = part if total is None else np.add(total, part, out=total)
    return total


def reduce(
    comm: Comm, values: np.ndarray, look: Callable[[], None] = lambda: None, timeout: float | None = None
) -> None:
    """Add up `values` (flat float32) over all ranks, each of which calls this; rank 0's become the sum.

    Args:
        look: called from time to time; what it raises ends the waiting.
        timeout: seconds; None for ever.

    Raises:
        FederationError: not done in time.
    """
    from mpi4py import MPI

    requests = []
    for start in range(0, len(values), PIECE):
        piece: Any = [values[start : start + PIECE], MPI.FLOAT]
        sent, summed = (piece, None) if comm.rank else (MPI.IN_PLACE, piece)
        requests.append(comm.Ireduce(sent, summed, op=MPI.SUM, root=0))
    began = time.monotonic()
    while not MPI.Request.Testall(requests):
        spent = time.monotonic() - began
        if spent < _EAGER:
            os.sched_yield()
            continue
        look()
        if timeout is not None and spent > timeout:
            raise FederationError(
                f"the sum over the ranks was not done after {timeout:g} s (training.silo_timeout): a rank has stalled"
            )
        time.sleep(_PAUSE)
