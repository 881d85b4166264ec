"""Samples once per node: what ranks map is what each would load. Whole runs over MPI (test_mpi.py) go through it."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from fedbound import data, study
from fedbound.federation import sharing

SETTINGS = study.Data(silos=5, partition="dirichlet", seed=3)


def test_ranks_map_what_each_would_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_CHUNK", 1000)  # three samples at a time
    about = sharing.written(SETTINGS, tmp_path)
    found, alone = sharing.opened(about, SETTINGS), data.federation(SETTINGS)
    assert found is not None
    for path in tmp_path.iterdir():
        path.unlink()  # the mappings keep them
    assert (found.shape, found.classes, found.name) == (alone.shape, alone.classes, alone.name)
    for ours, theirs in zip(found.silos, alone.silos, strict=True):
        for part in ("train", "validation", "test"):
            for name in ("x", "y"):
                one, other = (getattr(getattr(silo, part), name) for silo in (ours, theirs))
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
                assert isinstance(one.base, np.memmap)  # no copy of its own,
                assert one.flags.writeable  # nor will torch make one


def test_without_room_or_a_common_folder_each_loads_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"folder": str(tmp_path / "elsewhere"), "sizes": [], "classes": 2, "name": "digits"}
    assert sharing.opened(about, SETTINGS) is None

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(sharing, "_write", full)
    assert sharing.written(SETTINGS, tmp_path) == {}
    assert sharing.opened({}, SETTINGS) is None
