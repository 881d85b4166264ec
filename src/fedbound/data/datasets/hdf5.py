"""The user's own arrays in HDF5: datasets x, y and optionally owner at the root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedbound.data import Dataset
from fedbound.data.own import OwnOptions, assemble, files
from fedbound.errors import InputError
from fedbound.registry import DATASETS

if TYPE_CHECKING:
    import h5py

_SUFFIXES = (".h5", ".hdf5")


@DATASETS.register("hdf5", OwnOptions)
class Hdf5:
    """Own data from HDF5: x [n, ...], y [n], owner [n] (optional); one file, or a folder with one file per silo."""

    def __init__(self, options: OwnOptions):
        self.options = options

    def count(self) -> int:
        return sum(_read(path, ("y",), values=False)["y"] for path in files(self.options.path, _SUFFIXES)[0])

    def load(self) -> Dataset:
        paths, per_silo = files(self.options.path, _SUFFIXES)
        parts = {path: _read(path, ("x", "y", "owner"), values=True) for path in paths}
        return assemble("hdf5", parts, per_silo, self.options.scale)


def _read(path: Path, keys: tuple[str, ...], values: bool) -> dict:
    """The arrays under `keys` (owner where it is there), or their lengths only."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            found = {key: _dataset(path, file, key) for key in keys if key in file or key != "owner"}
            return {key: item[()] if values else item.shape[0] for key, item in found.items()}
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).split("(")[-1].strip(")")
        raise InputError(f"cannot read {str(path)!r} as HDF5 ({reason}); put an undamaged copy there") from None


def _dataset(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    import h5py

    item = file.get(key)
    if not isinstance(item, h5py.Dataset) or not item.shape or not np.issubdtype(item.dtype, np.number):
        raise InputError(f"{path} holds no array of numbers {key!r} (it has {', '.join(file)}); store x and y")
    return item
