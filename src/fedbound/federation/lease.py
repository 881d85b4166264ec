"""Who may write a scenario's checkpoints: one job at a time, and a stale one is fenced (design law 9).

Every owner has an epoch: a file `lease-000N.json` that exactly one process can create (a hard link to an existing
name fails). The highest epoch owns the folder. Checkpoints lie in a folder per epoch, so a stale job can never write
over a newer one's; and it finds out, because each save first looks for a higher epoch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedbound.errors import LeaseError

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease: on its own host it is known by pid and start time, on a cluster by its job."""

    epoch: int
    host: str
    pid: int
    started: str
    job: str


class Lease:
    """An acquired lease with its heartbeat. `folder` is this epoch's own folder for checkpoints.

    Args:
        root: folder of one scenario's checkpoints.
        wait_seconds: how long to await a living owner before giving up.

    Raises:
        LeaseError: a living owner did not finish in time.
    """

    def __init__(self, root: Path, wait_seconds: float = 0.0):
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.waited = False  # for another owner, who may have finished everything meanwhile
        self.owner = self._acquire(time.monotonic() + wait_seconds)
        self.folder = epoch_folder(self.root, self.owner.epoch)
        self.folder.mkdir(exist_ok=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        return self.owner.epoch

    def _file(self, epoch: int) -> Path:
        return self.root / f"lease-{epoch:04d}.json"

    def _acquire(self, deadline: float) -> Owner:
        while True:
            current = latest_epoch(self.root)
            if current and (owner := _read(self._file(current))) and _alive(owner, self._file(current)):
                if time.monotonic() >= deadline:
                    raise LeaseError(
                        f"another job (process {owner.pid} on {owner.host}{_job(owner)}) is writing the checkpoints in "
                        f"{self.root}; wait for it or cancel it"
                    )
                if not self.waited:
                    print(f"awaiting another job (process {owner.pid} on {owner.host}{_job(owner)})", flush=True)
                self.waited = True
                time.sleep(1.0)
                continue
            owner = Owner(current + 1, socket.gethostname(), os.getpid(), _started(os.getpid()), _job_id())
            if self._create(owner):
                return owner

    def _create(self, owner: Owner) -> bool:
        """Create the epoch's file with its content in one step; False when another process was faster."""
        self.root.mkdir(parents=True, exist_ok=True)  # an owner that finished while we waited has removed it
        with tempfile.NamedTemporaryFile("w", dir=self.root, prefix=".lease.", delete=False) as file:
            json.dump(asdict(owner), file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(file.name, self._file(owner.epoch))
        except FileExistsError:
            return False
        finally:
            os.unlink(file.name)
        return True

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a missed beat is no failure; verify() finds a lost lease
                os.utime(self._file(self.epoch))

    def verify(self) -> None:
        """Raises LeaseError when another job has taken the checkpoints over: this one must not write any more."""
        verify(self.root, self.epoch)

    def release(self, *, done: bool) -> None:
        """Stop the heartbeat. When the scenario is done its checkpoints are deleted; else they stay for a rerun."""
        self._stop.set()
        self._thread.join()
        if done and latest_epoch(self.root) == self.epoch:
            for file in self.root.glob("epoch-*/server_*"):  # first: they make the others checkpoints
                file.unlink(missing_ok=True)
            shutil.rmtree(self.root, ignore_errors=True)
        else:
            self._file(self.epoch).unlink(missing_ok=True)


def verify(root: Path, epoch: int) -> None:
    """Raises LeaseError unless `epoch` is still the newest one of `root`."""
    newest = latest_epoch(root)
    if newest > epoch:
        raise LeaseError(f"a newer job (epoch {newest}) took over the checkpoints in {root}; this one stops")


def epoch_folder(root: Path, epoch: int) -> Path:
    """Where the checkpoints of one owner lie."""
    return root / f"epoch-{epoch:04d}"


def latest_epoch(root: Path) -> int:
    """The newest epoch that left a lease or a folder; 0 where there is none."""
    numbers = [int(p.stem.split("-")[1]) for p in (*root.glob("lease-*.json"), *root.glob("epoch-*"))]
    return max(numbers, default=0)


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _alive(owner: Owner, path: Path) -> bool:
    if owner.host == socket.gethostname():
        return owner.started != "" and _started(owner.pid) == owner.started
    if owner.job and (running := _slurm_knows(owner.job)) is not None:
        return running
    try:
        return time.time() - path.stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat); empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _slurm_knows(job: str) -> bool | None:
    """Whether Slurm says that `job` is running; None where it cannot be asked."""
    try:
        found = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if found.returncode:
        return False if "Invalid job id" in found.stderr else None
    return any(s in ("RUNNING", "COMPLETING", "SUSPENDED") for s in found.stdout.split())


def _job_id() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


def _job(owner: Owner) -> str:
    return f", Slurm job {owner.job}" if owner.job else ""
