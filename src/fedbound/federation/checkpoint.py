"""Checkpoints: one file per rank and label, written atomically, the last two kept (design law 9).

A label is the number of aggregations that the state has behind it. A restart takes the newest label of the server for
which every silo still has the state that belongs to it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.errors import FederationError, LeaseError
from fedbound.federation import lease

KEEP = 2
SERVER = "server"
_NAME = re.compile(r"^(server|silo-\d+)_(\d{8})\.npz$")


@dataclass(frozen=True)
class State:
    """What one rank needs to go on: arrays by name, and JSON values."""

    label: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Store:
    """One rank's checkpoints in one epoch's folder.

    Args:
        folder: the epoch's folder, `<root>/epoch-000N`.
        rank: "server" or "silo-K".
        keep: checkpoints that are kept.
    """

    def __init__(self, folder: Path, rank: str, keep: int = KEEP):
        self.folder = Path(folder)
        self.rank = rank
        self.keep = keep

    def save(self, state: State) -> int:
        """Write a state and forget all but the last ones; returns the bytes written.

        Raises:
            LeaseError: another job took the scenario over.
        """
        lease.verify(self.folder.parent, int(self.folder.name.split("-")[1]))
        return self.write(state)

    def write(self, state: State) -> int:
        """`save`, without looking whether the folder is still this job's."""
        target = self.folder / f"{self.rank}_{state.label:08d}.npz"
        meta = np.frombuffer(json.dumps(state.meta).encode(), np.uint8)
        try:
            with tempfile.NamedTemporaryFile("wb", dir=self.folder, prefix=f".{self.rank}.", delete=False) as file:
                np.savez(file, allow_pickle=False, **{"meta.json": meta, **state.arrays})
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise LeaseError(f"{self.folder} is gone: a newer job took over the checkpoints; this one stops") from None
        os.replace(file.name, target)
        for old in labels(self.folder, self.rank)[: -self.keep]:
            (self.folder / f"{self.rank}_{old:08d}.npz").unlink(missing_ok=True)
        return target.stat().st_size

    def load(self, label: int) -> State:
        """Read the state with `label`.

        Raises:
            OSError, ValueError, zipfile.BadZipFile: missing or damaged (every member carries a CRC-32).
        """
        raw = (self.folder / f"{self.rank}_{label:08d}.npz").read_bytes()
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(arrays.pop("meta.json").tobytes())
        return State(label, arrays, meta)


def labels(folder: Path, rank: str) -> list[int]:
    """Labels of a rank's checkpoints, ascending."""
    found = [_NAME.match(path.name) for path in Path(folder).glob(f"{rank}_*.npz")]
    return sorted(int(m[2]) for m in found if m and m[1] == rank)


def adopt(current: lease.Lease, silos: Iterable[int]) -> State | None:
    """Bring the newest whole checkpoint of earlier epochs into the current epoch's folder; None to start afresh.

    The silos' states that belong to it come along, and earlier epochs' folders are removed afterwards: a stale job
    that wakes up finds nothing to write into.
    """
    silos = list(silos)
    older = [current.root / f"epoch-{n:04d}" for n in range(current.epoch - 1, 0, -1)]
    found = False
    for folder in older:
        for label in reversed(labels(folder, SERVER)):
            found = True
            state = _whole(folder, label, silos)
            if state is not None:
                _link(folder, current.folder, state)
                _forget(older)
                return state
    if found:
        raise FederationError(
            f"the checkpoints in {current.root} do not fit together, and the run cannot go on from any; "
            "delete that folder to start it afresh"
        )
    _forget(older)
    return None


def _whole(folder: Path, label: int, silos: list[int]) -> State | None:
    """The server's state, if it and all silo states that it names can be read."""
    try:
        state = Store(folder, SERVER).load(label)
        for silo, silo_label in state.meta["silo_labels"].items():
            if int(silo) not in silos:
                return None
            Store(folder, f"silo-{silo}").load(silo_label)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return state


def _link(source: Path, target: Path, state: State) -> None:
    names = [f"silo-{silo}_{label:08d}.npz" for silo, label in state.meta["silo_labels"].items()]
    # the server's file last: without it an interrupted copy does not count as a checkpoint
    names += ["records.jsonl", f"{SERVER}_{state.label:08d}.npz"]
    for name in names:
        if name != "records.jsonl" or (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _forget(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
