"""The user's own data: one file with all samples, or a folder with one file per silo; checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.errors import InputError
from fedbound.registry import Options


class OwnOptions(Options):
    """Options of data sets that read the user's own arrays."""

    path: str = Field(description="a file with all samples, or a folder with one file per silo")
    scale: float = Field(default=1.0, gt=0, description="features are multiplied by it; 8-bit images: 0.00392157")


def files(path: str, suffixes: tuple[str, ...]) -> tuple[list[Path], bool]:
    """The data files at `path`, sorted by name, and whether they are one per silo (a folder).

    Raises:
        InputError: nothing is there, or the folder holds no such file.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place], False
    if not place.is_dir():
        raise InputError(f"data.dataset.path: {path!r} does not exist; give a file or a folder with one file per silo")
    found = sorted(file for file in place.iterdir() if file.suffix in suffixes and file.is_file())
    if not found:
        raise InputError(
            f"data.dataset.path: the folder {path!r} holds no {' or '.join(suffixes)} file; put one per silo there"
        )
    return found, True


def assemble(name: str, parts: Mapping[Path, Mapping[str, np.ndarray]], per_silo: bool, scale: float = 1.0) -> Dataset:
    """One data set from the arrays x, y and (optionally) owner of each file; in a folder, each file is an owner.

    Raises:
        InputError: an array does not fit the others or holds values that cannot be used; it names the file.
    """
    checked = [_checked(path, arrays) for path, arrays in parts.items()]
    shapes = {x.shape[1:]: path for (x, _), path in zip(checked, parts, strict=True)}
    if len(shapes) > 1:
        (one, here), (other, there) = list(shapes.items())[:2]
        raise InputError(f"samples in {str(here)!r} have the shape {one}, in {str(there)!r} {other}; make them alike")
    x = np.concatenate([x for x, _ in checked])
    x *= np.float32(scale)
    y = np.concatenate([y for _, y in checked])
    if y.max() >= len(y):
        raise InputError(f"{next(iter(parts))}: class {y.max()} among only {len(y)} samples; number the classes from 0")
    return Dataset(x, y, int(y.max()) + 1, name, _owner(parts, [len(y) for _, y in checked], per_silo))


def _checked(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features as float32 and labels as int64."""
    x, y = arrays["x"], arrays["y"]
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or not len(y):
        raise InputError(f"{path}: x has the shape {x.shape} and y {y.shape}; x must be [n, ...] and y [n], n above 0")
    if x.dtype.kind not in "fiub":
        raise InputError(f"{path}: x has the type {x.dtype}; store numbers")
    if y.dtype.kind not in "iub" or not 0 <= int(y.min()) <= int(y.max()) < 2**31:
        raise InputError(
            f"{path}: y must hold class numbers from 0, not {y.dtype} from {y.min()} to {y.max()}; number the classes"
        )
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"{path}: x holds values that are not finite in float32; clean them")
    return x, y.astype(np.int64)


def _owner(parts: Mapping[Path, Mapping[str, np.ndarray]], sizes: list[int], per_silo: bool) -> np.ndarray | None:
    if per_silo:
        return np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    ((path, arrays),) = parts.items()
    owner = arrays.get("owner")
    if owner is None:
        return None
    if owner.shape != (sizes[0],) or owner.dtype.kind not in "iu":
        raise InputError(f"{path}: owner must be whole numbers of shape ({sizes[0]},), not {owner.dtype} {owner.shape}")
    return owner.astype(np.int64)
