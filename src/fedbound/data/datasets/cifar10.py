"""CIFAR-10 from its *binary* version: records of one label byte and 3 x 32 x 32 pixel bytes.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The "python version" holds pickles,
which can run code when opened, and is therefore not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.errors import InputError
from fedbound.registry import DATASETS, Options

_RECORD = 1 + 3 * 32 * 32
_NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


class Cifar10Options(Options):
    """Options of `cifar10`."""

    folder: str = Field(description="folder with data_batch_1.bin ... and/or test_batch.bin; all found are used")


@DATASETS.register("cifar10", Cifar10Options)
class Cifar10:
    """CIFAR-10, binary version: x float32 [n, 3, 32, 32] in [0, 1], 10 classes."""

    def __init__(self, options: Cifar10Options):
        self.folder = Path(options.folder).expanduser()

    def count(self) -> int:
        return sum(path.stat().st_size // _RECORD for path in self._files())

    def load(self) -> Dataset:
        records = np.concatenate([_records(path) for path in self._files()])
        x = records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32)
        x /= 255
        return Dataset(x, records[:, 0].astype(np.int64), 10, "cifar10")

    def _files(self) -> list[Path]:
        found = [path for path in (self.folder / f"{name}.bin" for name in _NAMES) if path.is_file()]
        if found:
            return found
        pickles = any((self.folder / name).is_file() for name in _NAMES)
        why = "the python version, whose pickles are not opened" if pickles else "no CIFAR-10 files"
        raise InputError(
            f"data.dataset.folder: {str(self.folder)!r} holds {why}; put the files of CIFAR-10's binary version there "
            "(data_batch_1.bin to data_batch_5.bin, test_batch.bin)"
        )


def _records(path: Path) -> np.ndarray:
    content = np.fromfile(path, dtype=np.uint8)
    if not len(content) or len(content) % _RECORD:
        raise InputError(f"{path} has {len(content)} bytes, no multiple of {_RECORD}; put an undamaged copy there")
    records = content.reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise InputError(f"{path} has the label {records[:, 0].max()}, above 9; put CIFAR-10's binary version there")
    return records
