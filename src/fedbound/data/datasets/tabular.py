"""The user's own table in CSV: a header, one row per sample, a target column, numbers in all feature columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from fedbound.data import Dataset
from fedbound.data.own import assemble, files
from fedbound.errors import InputError
from fedbound.registry import DATASETS, Options

if TYPE_CHECKING:
    import pandas as pd


class TabularOptions(Options):
    """Options of `tabular`."""

    path: str = Field(description="a CSV file with all samples, or a folder with one file per silo")
    target: str = Field(default="target", description="column of the class (text or numbers)")
    owner: str = Field(default="", description="column that names each sample's owner (one file only); empty: none")
    standardize: bool = Field(
        default=True, description="shift and scale each feature to mean 0 and deviation 1 over all silos' samples"
    )


@DATASETS.register("tabular", TabularOptions)
class Tabular:
    """Own data from CSV with a header: x float32 [n, features], classes numbered in sorted order."""

    def __init__(self, options: TabularOptions):
        self.options = options

    def count(self) -> int | None:
        files(self.options.path, (".csv",))
        return None

    def load(self) -> Dataset:
        paths, per_silo = files(self.options.path, (".csv",))
        tables = {path: self._read(path) for path in paths}
        columns = list(next(iter(tables.values())).columns)
        for path, table in tables.items():
            if list(table.columns) != columns:
                raise InputError(f"{path} has other columns than {paths[0]}; give all files the same header")
        classes = sorted({one for table in tables.values() for one in table[self.options.target]}, key=_natural)
        parts = {path: self._arrays(path, table, classes) for path, table in tables.items()}
        dataset = assemble("tabular", parts, per_silo)
        x = _standardized(dataset.x) if self.options.standardize else dataset.x
        return Dataset(x, dataset.y, len(classes), "tabular", dataset.owner)

    def _read(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        try:
            # classes and owners stay text: 1 in one file and 1.0 in another would be two of them
            table = pd.read_csv(path, dtype={self.options.target: str, self.options.owner: str})
        except (OSError, ValueError) as error:  # pandas' own parser errors are ValueErrors
            raise InputError(f"cannot read {str(path)!r} as CSV ({error}); mend the file") from None
        for column in filter(None, (self.options.target, self.options.owner)):
            if column not in table or table[column].isna().any():
                raise InputError(f"{path} has no column {column!r}, or an empty cell in it; fill it or name another")
        return table

    def _arrays(self, path: Path, table: pd.DataFrame, classes: list[str]) -> dict[str, np.ndarray]:
        features = table.drop(columns=[c for c in (self.options.target, self.options.owner) if c])
        for column in features:
            if features[column].dtype.kind not in "fiub" or features[column].isna().any():
                raise InputError(f"{path}: the column {str(column)!r} holds text or empty cells; encode or remove it")
        numbers = {name: number for number, name in enumerate(classes)}
        y = np.array([numbers[one] for one in table[self.options.target]], dtype=np.int64)
        arrays = {"x": features.to_numpy(dtype=np.float64), "y": y}
        if self.options.owner:
            arrays["owner"] = np.unique(table[self.options.owner].to_numpy(dtype=str), return_inverse=True)[1]
        return arrays


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers by value, before text by alphabet."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def _standardized(x: np.ndarray) -> np.ndarray:
    deviation = x.std(axis=0, dtype=np.float64)
    scaled = (x - x.mean(axis=0, dtype=np.float64)) / np.where(deviation > 0, deviation, 1.0)
    return scaled.astype(np.float32)
