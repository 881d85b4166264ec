"""The user's own arrays in NumPy's .npz format: x, y and optionally owner. Pickled objects are refused."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from fedbound.data import Dataset
from fedbound.data.own import OwnOptions, assemble, files
from fedbound.errors import InputError
from fedbound.registry import DATASETS

_DAMAGE = (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile)


@DATASETS.register("npz", OwnOptions)
class Npz:
    """Own data from .npz: x [n, ...], y [n], owner [n] (optional); one file, or a folder with one file per silo."""

    def __init__(self, options: OwnOptions):
        self.options = options

    def count(self) -> int:
        return sum(_rows(path) for path in files(self.options.path, (".npz",))[0])

    def load(self) -> Dataset:
        paths, per_silo = files(self.options.path, (".npz",))
        return assemble("npz", {path: _read(path) for path in paths}, per_silo, self.options.scale)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            _require(path, stored.files)
            return {key: stored[key] for key in ("x", "y", "owner") if key in stored.files}
    except _DAMAGE as error:
        raise _refusal(path, error) from None


def _rows(path: Path) -> int:
    """Length of y from its header, without reading it."""
    try:
        with zipfile.ZipFile(path) as archive:
            _require(path, [name.removesuffix(".npy") for name in archive.namelist()])
            with archive.open("y.npy") as file:
                version = np.lib.format.read_magic(file)
                first = version == (1, 0)
                header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape = header(file)[0]
                return int(shape[0]) if shape else 0
    except _DAMAGE as error:
        raise _refusal(path, error) from None


def _require(path: Path, names: list[str]) -> None:
    for key in ("x", "y"):
        if key not in names:
            raise InputError(f"{path} holds no array {key!r} (it has {', '.join(names) or 'none'}); save x= and y=")


def _refusal(path: Path, error: Exception) -> InputError:
    reason = str(error).split(".")[0].split("\n")[0]
    return InputError(f"cannot read {str(path)!r} as .npz ({reason}); write it with numpy.savez(path, x=..., y=...)")
