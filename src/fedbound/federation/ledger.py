"""The privacy ledger of one silo: what it has released, never forgotten (design law 9).

A line is written and synced before the noised message is encoded, and outlives restarts: a round that is made again
after a kill draws fresh noise and is charged again, whether or not its first message ever left.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


class Ledger:
    """Releases of one silo.

    Args:
        file: where they are kept; None keeps them in memory only (probes, tests).
    """

    def __init__(self, file: Path | None = None):
        self.file = file
        kept = _read(file)
        self.releases = _count(kept)
        if file and kept and not kept.endswith(b"\n"):
            with open(file, "ab") as stream:  # the next line must not join the one that was cut short
                stream.write(b"\n")
                os.fsync(stream.fileno())

    def charge(self, round_: int) -> int:
        """Note one release of a round; returns the releases so far, this one included."""
        if self.file is not None:
            with open(self.file, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"round": round_}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        self.releases += 1
        return self.releases


def releases(folder: Path, silo: int) -> int:
    """What a silo whose ledger lies in `folder` has released so far."""
    return _count(_read(path(folder, silo)))


def path(folder: Path, silo: int) -> Path:
    """Where a silo's ledger lies: beside the epochs' folders, so that no restart rolls it back."""
    return folder / f"ledger-{silo}.jsonl"


def _read(file: Path | None) -> bytes:
    return file.read_bytes() if file and file.exists() else b""


def _count(kept: bytes) -> int:
    # a line that was cut short by a kill is a release all the same: nothing after it was sent, but it may have been
    return len(kept.splitlines())
