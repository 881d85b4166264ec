"""Samples once per node: of the silos' ranks on one, the first loads and deals the data, the others map what it made.

It writes the reordered arrays into files of the node's temporary folder (TMPDIR), all ranks map them copy-on-write, and
they are deleted before the run begins: the mappings keep them, and only a job that is killed while it loads leaves a
folder behind. The pages are the node's page cache, once, and can be dropped under pressure where that folder is on a
disk.

The server's rank has no part in it and reads the data for itself: it must be free to hear that another rank has failed
(`transports/last_words.py`), and a rank that failed would keep it waiting here.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound import data

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm as Comm

    from fedbound import study

_CHUNK = 1 << 26  # bytes


def federation(comm: Comm, settings: study.Data) -> data.Federation:
    """What `data.federation` gives, on every rank of `comm` but 0, which all call it together.

    Raises:
        InputError: as `data.federation`, on the first rank of a node; the job must end then, for others wait for it.
    """
    from mpi4py import MPI

    others = comm.Create_group(comm.Get_group().Excl([0]))
    node: Any = others.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
    if node.size == 1:
        return data.federation(settings)
    if node.rank:
        found = opened(announce(node, {}), settings)
        _wait(node.Ibarrier())
        return found or data.federation(settings)
    with tempfile.TemporaryDirectory(prefix="fedbound-") as folder:
        about = written(settings, Path(folder))
        announce(node, about)
        found = opened(about, settings)
        _wait(node.Ibarrier())  # all have mapped the files before they go
    return found or data.federation(settings)


def written(settings: study.Data, folder: Path) -> dict[str, Any]:
    """Write the arrays; returns what `opened` needs, nothing where the folder has no room for them.

    Raises:
        InputError: as `data.federation`.
    """
    dataset, parts = data.dealt(settings)
    order = np.concatenate(parts)
    try:
        for name in ("x", "y"):
            _write(folder / f"{name}.npy", getattr(dataset, name), order)
    except OSError as error:
        print(f"fedbound: {folder} cannot hold the samples ({error}); each rank loads its own", file=sys.stderr)
        return {}
    sizes = [len(part) for part in parts]
    return {"folder": str(folder), "sizes": sizes, "classes": dataset.classes, "name": dataset.name}


def _write(path: Path, array: np.ndarray, order: np.ndarray) -> None:
    """`array[order]` as .npy, without a second copy of it in memory. Written, not mapped: a full disk is an OSError."""
    rows = max(1, _CHUNK // max(1, array[:1].nbytes))
    with open(path, "wb") as file:
        header = {"descr": array.dtype.str, "fortran_order": False, "shape": (len(order), *array.shape[1:])}
        np.lib.format.write_array_header_2_0(file, header)
        for start in range(0, len(order), rows):
            file.write(np.ascontiguousarray(array[order[start : start + rows]]).data)


def opened(about: dict[str, Any], settings: study.Data) -> data.Federation | None:
    """The silos from the files; None where there are none, or where this rank does not see the first one's folder."""
    if not about:
        return None
    try:
        x, y = (np.load(Path(about["folder"], f"{name}.npy"), mmap_mode="c", allow_pickle=False) for name in "xy")
    except FileNotFoundError:
        return None
    return data.of_arrays(x, y, about["sizes"], about["classes"], about["name"], settings)


def announce(comm: Comm, said: dict[str, Any]) -> dict[str, Any]:
    """Broadcast rank 0's JSON object as bytes; who waits for it sleeps, since it may take long."""
    raw = np.frombuffer(json.dumps(said).encode(), np.uint8).copy()
    length = np.array([len(raw)], np.int64)
    _wait(comm.Ibcast(length, root=0))
    if comm.rank:
        raw = np.empty(int(length[0]), np.uint8)
    comm.Bcast(raw, root=0)
    found: dict[str, Any] = json.loads(raw.tobytes())
    return found


def _wait(request: Any) -> None:
    while not request.Test():
        time.sleep(0.005)
