"""Silos as MPI ranks: rank 0 is the server, the other ranks hold the silos. Point-to-point bytes, no pickle.

Rank 0 may hold silos itself, where there are few ranks: they train while the server has nothing to do but to wait.

The tag of a message is its silo's number + 1, so that one rank can hold several silos. Tag 0 is that of a rank's
last message: empty where all is well; of a rank that fails, why (`last_words.py`). From the server, an empty message of
tag 0 calls a rank to add its silos' updates to the sum (`reduction.py`).

Waiting polls with a growing pause: a blocking receive spins and takes a whole core from a training neighbour, while a
fixed pause of a millisecond costs more than it saves in short rounds.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.errors import FederationError, InputError
from fedbound.federation.transports import placement, reduction

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Comm

    from fedbound.federation.silo import Silo

FAILED = 0  # tag of a rank's last message; empty where it has not failed
ADD = 0  # tag of the server's call to a sum
_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
FIRST_PAUSE = 20e-6
LONGEST_PAUSE = 1e-3


def world(silos: int, ranks: int | None = None, server_hosts: bool = False, ranks_per_silo: int = 1) -> Comm:
    """COMM_WORLD, checked to have a server and from one to `silos` ranks for the silos, or as many as silos need.

    Args:
        silos: silos of the scenario.
        ranks: the size that the job asked its launcher for; None: any that the silos fit in.
        server_hosts: the server's rank is one of those that hold silos.
        ranks_per_silo: where above 1, every silo has just so many ranks.

    Raises:
        InputError: there is no MPI library, mpi4py and the library do not fit, or the size is another: a launcher of
            one MPI with the library of another starts N separate programs that would all succeed alone. Or all ranks
            are on one of the several nodes that a Slurm job has.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"no usable MPI library was found ({str(error).splitlines()[0]}); install the extra 'mpi' for the embedded "
            "one, load your site's MPI module, or use --transport local"
        ) from None
    comm = MPI.COMM_WORLD
    library = MPI.Get_library_version().split("\n")[0].strip()
    if ranks_per_silo > 1 and comm.size != silos * ranks_per_silo + 1:
        needed = silos * ranks_per_silo + 1
        raise InputError(
            f"this scenario needs {needed} MPI ranks (one server and {silos} silos of training.ranks_per_silo: "
            f"{ranks_per_silo}), and this job has {comm.size} (library: {library}); start it with "
            f"'mpiexec -n {needed}' of that same MPI"
        )
    most = silos if server_hosts else silos + 1
    if ranks_per_silo == 1 and not 2 <= comm.size <= most:
        raise InputError(
            f"this scenario needs {most} MPI ranks ({'' if server_hosts else 'one server and '}{silos} silos), or "
            f"fewer with several silos in each, at least 2, and this job has {comm.size} (library: {library}); start "
            f"it with 'mpiexec -n {most}' of that same MPI, or use --transport local"
        )
    placement.check(comm.size, comm.rank, ranks)
    largest = comm.Get_attr(MPI.TAG_UB)
    if largest is not None and silos > largest:
        raise InputError(f"data.silos: {silos} silos are more than this MPI has tags for ({largest}); use fewer")
    return comm


def hosted(rank: int, ranks: int, silos: int, server_hosts: bool = False) -> range:
    """The silos that a rank holds: blocks of nearly equal size, the server (rank 0) none unless it is to host some."""
    first = 0 if server_hosts else 1
    if rank < first:
        return range(0)
    hosts = ranks - first
    return range((rank - first) * silos // hosts, (rank - first + 1) * silos // hosts)


def hosts(ranks: int, silos: int, ranks_per_silo: int = 1, server_hosts: bool = False) -> dict[int, int]:
    """The rank that each silo is reached at: the one that holds it, or its leader where it has several."""
    if ranks_per_silo > 1:
        return {silo: 1 + silo * ranks_per_silo for silo in range(silos)}
    return {silo: rank for rank in range(ranks) for silo in hosted(rank, ranks, silos, server_hosts)}


def rank_hint() -> int | None:
    """This process's rank as its launcher tells it, without MPI; None where there is no launcher."""
    found = (os.environ.get(name, "") for name in _RANKS)
    return next((int(text) for text in found if text.isdigit()), None)


def loaded() -> Comm | None:
    """COMM_WORLD where this process has MPI already."""
    module = sys.modules.get("mpi4py.MPI")
    return None if module is None else module.COMM_WORLD


def load() -> Comm | None:
    """COMM_WORLD, None where there is no usable MPI. Waits for the other ranks to do the same."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return None
    return MPI.COMM_WORLD


def words(text: str, code: int, most: int) -> bytearray:
    """The last message of a rank that fails: its exit code and one sentence of at most so many bytes."""
    return bytearray([code]) + text.encode()[:most]


def sentence(words: bytearray) -> str:
    return words[1:].decode(errors="replace")


def _failure(rank: int, words: bytearray) -> InputError | FederationError:
    kind = InputError if words[:1] == bytes([InputError.exit_code]) else FederationError
    return kind(f"rank {rank}: {sentence(words)}")


class MpiTransport:
    """The server's end.

    Args:
        comm: all ranks; this is rank 0.
        silos: number of silos.
        members: those of them that this rank holds itself. A member works where no message of another rank is there,
            and others' messages and timers wait for it meanwhile.
        ranks_per_silo: where above 1, each silo is reached at the first of so many ranks.
    """

    def __init__(self, comm: Comm, silos: int, members: Mapping[int, Silo] | None = None, ranks_per_silo: int = 1):
        self.comm = comm
        self.silos = silos
        self.members = dict(members or {})
        self.host = hosts(comm.size, silos, ranks_per_silo, bool(self.members))
        self.here: deque[tuple[int, bytearray]] = deque()  # messages for the members
        self.sending: list[tuple[Any, int, bytearray]] = []
        self.over: set[int] = set()  # ranks that have ended their work

    def send(self, silo: int, message: bytearray) -> None:
        if silo in self.members:
            self.here.append((silo, message))
            return
        self.sending = [(request, to, kept) for request, to, kept in self.sending if not request.Test()]
        self.sending.append((self.comm.Isend(as_bytes(message), dest=self.host[silo], tag=silo + 1), silo, message))

    def receive(self, timeout: float | None = None) -> tuple[int, Any] | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            received = _poll(self.comm, time.monotonic() if self.here else deadline)
            if received is None and self.here:
                silo, message = self.here.popleft()
                answer = self.members[silo].handle(message)
                if answer is not None:
                    return silo, answer
                continue
            if received is None:
                return None
            rank, silo, buffer = received
            if silo + 1 == FAILED:
                self._ended(rank, buffer)
                continue
            if self.host.get(silo) != rank:
                raise FederationError(f"rank {rank} sent a message for silo {silo}, which it does not hold")
            return silo, buffer

    def reduce(self, out: np.ndarray, timeout: float | None = None) -> None:
        """See `transports.Reducing`."""
        for rank in sorted(set(self.host.values()) - {self.comm.rank}):
            self.sending.append((self.comm.Isend(as_bytes(bytearray()), dest=rank, tag=ADD), -1, bytearray()))
        own = reduction.parts(self.members)
        out[:] = 0 if own is None else own
        reduction.reduce(self.comm, out, self._hear_failures, timeout)

    def _hear_failures(self) -> None:
        received = take(self.comm, FAILED)
        if received is not None:
            self._ended(received[0], received[2])

    def _ended(self, rank: int, last: bytearray) -> None:
        if last:
            raise _failure(rank, last)
        self.over.add(rank)

    def close(self, lost: Sequence[int] = ()) -> None:
        for request, silo, _ in self.sending:
            if silo not in lost:
                request.Wait()
        self.sending = [one for one in self.sending if one[1] in lost]  # their buffers must outlive this

    def farewell(self, seconds: float | None) -> bool:
        """Wait until every rank with silos has ended its work, and take what lost silos still send, unread.

        Args:
            seconds: how long; None where no silo was lost, so that every rank will.

        Returns:
            Whether all did. A rank that stalls would hold up the end of MPI for ever.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        others = set(self.host.values()) - {self.comm.rank}
        while not self.over >= others:
            received = _poll(self.comm, deadline)
            if received is None:
                return False
            rank, silo, buffer = received
            if silo + 1 == FAILED:
                self._ended(rank, buffer)
        return True


class MpiEndpoint:
    """A silo rank's end.

    Args:
        comm: all ranks.
        silos: this rank's silos, whose updates it adds to sums when it is called to.
    """

    def __init__(self, comm: Comm, silos: Mapping[int, Silo] | None = None):
        self.comm = comm
        self.silos = silos or {}

    def receive(self) -> tuple[int, Any]:
        while True:
            received = _poll(self.comm, None)
            assert received is not None  # without a timeout _poll returns with a message only
            if received[1] + 1 != ADD:
                return received[1], received[2]
            own = reduction.parts(self.silos)
            assert own is not None  # the server calls ranks with silos only
            reduction.reduce(self.comm, own)

    def send(self, silo: int, message: bytearray) -> None:
        self.comm.Send(as_bytes(message), dest=0, tag=silo + 1)

    def close(self) -> None:
        """Tell the server that this rank's work is over."""
        self.comm.Send(as_bytes(bytearray()), dest=0, tag=FAILED)


def _poll(comm: Comm, deadline: float | None) -> tuple[int, int, bytearray] | None:
    """Rank that it comes from, silo that it is of or for, and bytes of the next message; None after the deadline."""
    pause = FIRST_PAUSE
    while (received := take(comm)) is None:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        left = pause if deadline is None else deadline - time.monotonic()
        time.sleep(max(0.0, min(pause, left)))
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return received


def take(comm: Comm, tag: int | None = None) -> tuple[int, int, bytearray] | None:
    """Rank, silo and bytes of a message with this tag, if one is there."""
    from mpi4py import MPI

    status = MPI.Status()
    matched = comm.Improbe(MPI.ANY_SOURCE, MPI.ANY_TAG if tag is None else tag, status)
    if matched is None:
        return None
    buffer = bytearray(status.Get_count(MPI.BYTE))
    matched.Recv(as_bytes(buffer))
    return status.Get_source(), status.Get_tag() - 1, buffer


def as_bytes(buffer: bytearray) -> list[Any]:
    from mpi4py import MPI

    return [buffer, len(buffer), MPI.BYTE]
