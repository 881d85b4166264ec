"""Silos as MPI ranks: rank 0 is the server, rank k+1 is silo k. Point-to-point bytes, no pickle.

Waiting polls with a growing pause: a blocking receive spins and takes a whole core from a training neighbour, while a
fixed pause of a millisecond costs more than it saves in short rounds.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from fedbound.errors import InputError

if TYPE_CHECKING:
    from mpi4py import MPI

TAG = 1
_FIRST_PAUSE = 20e-6
_LONGEST_PAUSE = 1e-3


def world(ranks: int) -> MPI.Intracomm:
    """COMM_WORLD, checked to have the size that the scenario needs.

    Raises:
        InputError: there is no MPI library, mpi4py and the library do not fit, or the size is another: a launcher of
            one MPI with the library of another starts N separate programs that would all succeed alone.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"no usable MPI library was found ({str(error).splitlines()[0]}); install the extra 'mpi' for the embedded "
            "one, load your site's MPI module, or use --transport local"
        ) from None
    comm = MPI.COMM_WORLD
    if comm.size != ranks:
        library = MPI.Get_library_version().split("\n")[0].strip()
        raise InputError(
            f"this scenario needs {ranks} MPI ranks (one server and {ranks - 1} silos) and this job has {comm.size} "
            f"(library: {library}); start it with 'mpiexec -n {ranks}' of that same MPI, or use --transport local"
        )
    return comm


def rank_hint() -> int:
    """This process's rank as its launcher tells it, without MPI; 0 where none does."""
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


class MpiTransport:
    """The server's end."""

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm
        self.silos = comm.size - 1
        self.sending: list[tuple[Any, bytearray]] = []

    def send(self, silo: int, message: bytearray) -> None:
        self.sending = [(request, kept) for request, kept in self.sending if not request.Test()]
        self.sending.append((self.comm.Isend(_bytes(message), dest=silo + 1, tag=TAG), message))

    def receive(self, timeout: float | None = None) -> tuple[int, Any] | None:
        received = _poll(self.comm, timeout)
        return None if received is None else (received[0] - 1, received[1])

    def close(self) -> None:
        for request, _ in self.sending:
            request.Wait()
        self.sending = []


class MpiEndpoint:
    """A silo rank's end."""

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm

    def receive(self) -> tuple[int, Any]:
        received = _poll(self.comm, None)
        assert received is not None  # without a timeout _poll returns with a message only
        return self.comm.rank - 1, received[1]

    def send(self, silo: int, message: bytearray) -> None:
        self.comm.Send(_bytes(message), dest=0, tag=TAG)


def _poll(comm: MPI.Intracomm, timeout: float | None) -> tuple[int, bytearray] | None:
    from mpi4py import MPI

    status = MPI.Status()
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while (matched := comm.Improbe(MPI.ANY_SOURCE, TAG, status)) is None:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    buffer = bytearray(status.Get_count(MPI.BYTE))
    matched.Recv(_bytes(buffer))
    return status.Get_source(), buffer


def _bytes(buffer: bytearray) -> list[Any]:
    from mpi4py import MPI

    return [buffer, len(buffer), MPI.BYTE]
