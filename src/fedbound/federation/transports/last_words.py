"""How a rank that fails says why: one sentence on standard error, whichever rank meets the error, and no rank hangs.

The first rank to abort takes the whole job along, so no rank may abort before the sentence is out. Rank 0 prints and
then aborts; every other rank sends its sentence to rank 0 (tag 0, which no silo has) and waits for that end. Rank 0
finds the sentence where it waits for updates, or when it fails itself. A rank that rank 0 leaves alone too long prints
for itself and aborts. All ranks meet most errors (a wrong setting), one rank alone some (a file missing on its node).
"""

from __future__ import annotations

import sys
import time

from fedbound.errors import InputError
from fedbound.federation.transports import mpi

LONGEST_WAIT = 10.0  # seconds that another rank gives rank 0 to print
_STAGGER = 0.05  # seconds more per rank: the first to lose patience ends all others before they say the same
_ALONE = 2.0  # seconds that a rank without MPI gives its launcher to end it because rank 0 has left with an error
_GATHER = 0.5  # seconds in which rank 0 hears what the others have to say
_FLUSH = 0.1  # seconds in which the launcher takes over what was printed, before the job is killed
_MOST = 4096  # bytes of a sentence; more than any has


def end(sentence: str, code: int, *, of_mpi_job: bool) -> None:
    """Say `sentence` once for all ranks that have it, and end the job; returns where no other rank can be reached.

    Args:
        code: what the job exits with.
        of_mpi_job: the other ranks, if there are any, start MPI as well, so that this one can wait for them in it.
    """
    hint = mpi.rank_hint()
    comm = mpi.loaded()
    rank = comm.rank if comm is not None and comm.size > 1 else hint or 0
    if rank == 0:
        say(sentence)
    if comm is None and of_mpi_job and hint is not None:
        comm = mpi.load()
    if comm is None or comm.size == 1:
        if rank:
            time.sleep(_ALONE + _STAGGER * rank)
            say(f"rank {rank}: {sentence}")
        return
    if rank:
        words = mpi.words(sentence, code, _MOST)
        request = comm.Isend(mpi.as_bytes(words), dest=0, tag=mpi.FAILED)
        time.sleep(LONGEST_WAIT + _STAGGER * rank)  # rank 0 ends this process before that
        request.Test()
        say(f"rank {rank}: {sentence}")
    elif code == InputError.exit_code:  # of a run that was under way only one rank fails
        _say_the_others(comm, sentence)
    time.sleep(_FLUSH)
    comm.Abort(code)


def _say_the_others(comm: mpi.Comm, said: str) -> None:
    """Print what other ranks have to say that has not been said yet."""
    deadline, missing = time.monotonic() + _GATHER, comm.size - 1
    while missing and time.monotonic() < deadline:
        received = mpi.take(comm, mpi.FAILED)
        if received is None:
            time.sleep(1e-3)
            continue
        missing -= 1
        rank, _, words = received
        text = mpi.sentence(words)
        if text not in said:
            say(f"rank {rank}: {text}")
            said += text


def say(sentence: str) -> None:
    """In one write: a job that is killed between two leaves half a line."""
    sys.stderr.write(f"fedbound: {sentence}\n")
    sys.stderr.flush()
