"""Which process died: every MPI rank is watched by its parent, which tells before the launcher can end the job.

A process that dies ends an MPI job: its launcher kills all others at once, and names a process number at best. So a
rank is the child of a process that only waits for it, forked before torch and MPI are there. When the rank dies, that
one names it, leaves a death certificate beside the checkpoints, and dies in the same way, which is what the launcher
sees. The first certificate of a job is the cause; nothing that is killed in consequence can write a second one.

Under `on_failure: drop` the next start goes on without the silos of a rank that died. Signals that ask a job to end
(SIGTERM at a time limit, SIGINT) are no death, nor is an exit that the program itself decided on.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fedbound.federation.transports.mpi import rank_hint

_ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PASSED_ON = (*_ASKED, signal.SIGUSR1, signal.SIGUSR2)
_DECIDED = (0, 1, 2, 130)  # exit codes of the command line
_SET_PARENT_DEATH_SIGNAL = 1
_to_parent = -1


@dataclass(frozen=True)
class Rank:
    """One rank of one start: where its death is to be noted, and whom it takes along."""

    folder: str
    epoch: int
    rank: int
    silos: list[int]


@dataclass(frozen=True)
class Death:
    """The rank that ended a job by dying."""

    epoch: int
    rank: int
    silos: list[int]
    how: str


def begin() -> None:
    """Go on as the child of a process that watches; only in a rank that a launcher started."""
    global _to_parent
    if rank_hint() is None or os.environ.get("FEDBOUND_UNWATCHED"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        _watch(child, reader)
    os.close(reader)
    _to_parent = writer
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)  # launchers kill the parent only
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def tell(rank: Rank) -> None:
    """Tell the parent who this is, once it is known."""
    if _to_parent >= 0:
        os.write(_to_parent, json.dumps(asdict(rank)).encode() + b"\n")


def _watch(child: int, reader: int) -> None:
    """The parent's whole life."""
    for number in _PASSED_ON:
        signal.signal(number, lambda number, frame: os.kill(child, number))
    told = b"".join(iter(lambda: os.read(reader, 65536), b""))  # until the child's end of the pipe is closed
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in _DECIDED and -code not in _ASKED:
        _note(told, f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _note(told: bytes, how: str) -> None:
    line = told.split(b"\n")[0]
    rank = Rank(**json.loads(line)) if line else Rank("", 0, rank_hint() or 0, [])
    print(f"fedbound: {_who(rank)} died ({how}); the job ends", file=sys.stderr, flush=True)
    if rank.folder:
        with contextlib.suppress(OSError):  # a finished run's folder is gone
            certify(Path(rank.folder), Death(rank.epoch, rank.rank, rank.silos, how))


def _who(rank: Rank | Death) -> str:
    if rank.rank == 0:
        return "the server (rank 0)"
    held = ", ".join(map(str, rank.silos))
    return f"rank {rank.rank} with silo{'s' if len(rank.silos) > 1 else ''} {held}" if held else f"rank {rank.rank}"


def certify(folder: Path, death: Death) -> None:
    """Leave the certificate unless its job has one already; on disk when this returns."""
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".death.", delete=False) as file:
        json.dump(asdict(death), file)
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(file.name, folder / f"death-{death.epoch:04d}.json")
    os.unlink(file.name)


def lost(folder: Path, silos: Iterable[int]) -> dict[int, str]:
    """Silo -> how the rank that held it died in an earlier start."""
    found: dict[int, str] = {}
    for file in sorted(folder.glob("death-*.json")):
        try:
            death = Death(**json.loads(file.read_text(encoding="utf-8")))
            found |= dict.fromkeys(death.silos, f"its process died in start {death.epoch} ({death.how})")
        except (OSError, ValueError, TypeError):
            continue  # cut short or foreign: nobody is left out for it
    return {silo: found[silo] for silo in silos if silo in found}
