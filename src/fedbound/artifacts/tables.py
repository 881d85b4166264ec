"""An artifact in memory: typed columns, tables, attributes, and the digests that identify them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound import __version__
from fedbound.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "fedbound"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Field:
    """One column's type and meaning: dtype is "str" or the name of a boolean, integer or IEEE floating type.

    Raises:
        ValueError: of another dtype, which HDF5 cannot hold portably.
    """

    dtype: str
    unit: str
    description: str
    measured: bool = False

    def __post_init__(self) -> None:
        if self.dtype == "str":
            return
        dtype = np.dtype(self.dtype)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise ValueError(f"a column holds str, bool, integers or floats of at most 64 bits, not {self.dtype!r}")
        object.__setattr__(self, "dtype", dtype.name)  # one spelling, because digests are taken of it


@dataclass(frozen=True)
class Column:
    """One column's field and its values (1-D ndarray; for "str" an object array of str).

    Raises:
        ValueError: the values are not 1-D, or their type cannot hold them (a fraction or NaN in an integer column,
            anything but text without NUL in a "str" column).
    """

    field: Field
    values: np.ndarray

    def __post_init__(self) -> None:
        text = self.field.dtype == "str"
        values = np.asarray(self.values, dtype=object) if text else np.asarray(self.values)
        if values.ndim != 1:
            raise ValueError(f"a column is 1-D, not {values.ndim}-D")
        converted = _text(values) if text else _numbers(values, self.field.dtype)
        object.__setattr__(self, "values", converted)


def _text(values: np.ndarray) -> np.ndarray:
    try:
        different: Iterable[Any] = dict.fromkeys(values.tolist())  # long columns repeat few texts
    except TypeError:  # what cannot be a key is no text
        different = values
    for value in different:
        # HDF5 strings end at NUL; a lone surrogate has no UTF-8
        if not isinstance(value, str) or "\0" in value or not _encodable(value):
            raise ValueError(f"a str column holds text without NUL, not {value!r}")
    return values


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _numbers(values: np.ndarray, dtype: str) -> np.ndarray:
    wanted = np.dtype(dtype).newbyteorder("<")
    if values.dtype == wanted:
        return values
    if values.size == 0:
        return values.astype(wanted)
    if values.dtype.kind not in "biufO":
        raise ValueError(f"a column of {dtype} cannot hold {values[0]!r}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = values.astype(wanted)
    if wanted.kind != "f" and not np.array_equal(values, converted):
        raise ValueError(f"a column of {dtype} cannot hold {values[values != converted][0]!r}")
    return converted


Table = dict[str, Column]


@dataclass(frozen=True)
class Schema:
    """The columns of one table, in order."""

    fields: Mapping[str, Field]

    def table(self, rows: Iterable[Mapping[str, Any]]) -> Table:
        """Build a table from rows; every row has exactly the schema's keys.

        Raises:
            ValueError: a row misses a column or has one too many, or a column's type cannot hold a value.
        """
        rows = list(rows)
        for row in rows:
            if row.keys() != self.fields.keys():
                raise ValueError(f"row differs from its schema in {sorted(row.keys() ^ self.fields.keys())}")
        return self.columns({key: [row[key] for row in rows] for key in self.fields})

    def columns(self, values: Mapping[str, Sequence[Any] | np.ndarray]) -> Table:
        """Build a table from whole columns of equal length.

        Raises:
            ValueError: a column is missing, unknown, of another length, or its type cannot hold its values.
        """
        if values.keys() != self.fields.keys():
            raise ValueError(f"columns differ from the schema in {sorted(values.keys() ^ self.fields.keys())}")
        if len({len(v) for v in values.values()}) > 1:
            raise ValueError("columns differ in length")
        table = {}
        for key, field_ in self.fields.items():
            try:
                table[key] = Column(field_, np.asarray(values[key], dtype=object if field_.dtype == "str" else None))
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"column {key!r}: {error}") from None
        return table


@dataclass
class Artifact:
    """One stage's result.

    Attributes:
        stage: name of the stage that wrote it.
        study: name of the study.
        scenario: the resolved scenario, as given to the stage.
        seed: the scenario's seed, from 0; None where the stage has none.
        tables: columns by table and name.
        inputs: content digest of each input, by name.
        provenance: what varies from run to run (host, times, job id, versions); str, int or float values.
    """

    stage: str
    study: str
    scenario: dict[str, Any]
    seed: int | None = None
    tables: dict[str, Table] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, str | int | float] = field(default_factory=dict)
    package_version: str = __version__

    def __getitem__(self, table: str) -> pd.DataFrame:
        """The table as a pandas DataFrame; `.attrs["units"]` maps columns to units."""
        import pandas as pd

        if table not in self.tables:
            raise KeyError(f"no table {table!r} in this {self.stage} artifact; it has {', '.join(self.tables)}")
        columns = self.tables[table]
        frame = pd.DataFrame({name: column.values for name, column in columns.items()})
        frame.attrs["units"] = {name: column.field.unit for name, column in columns.items()}
        return frame

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables)

    def attributes(self) -> dict[str, Any]:
        return {
            "schema": f"{SCHEMA}/{self.stage}",
            "schema_version": SCHEMA_VERSION,
            "stage": self.stage,
            "study": self.study,
            "scenario": canonical(self.scenario),
            "seed": -1 if self.seed is None else int(self.seed),
            "package_version": self.package_version,
            "inputs": canonical(self.inputs),
        }

    def digest(self) -> str:
        """SHA-256 over all attributes, columns and provenance, hexadecimal."""
        return self._digest(everything=True)

    def content_digest(self) -> str:
        """SHA-256 over what was computed: no provenance, no values of measured columns, no package version."""
        return self._digest(everything=False)

    def _digest(self, everything: bool) -> str:
        sha = hashlib.sha256()
        attributes = self.attributes()
        if not everything:
            del attributes["package_version"]
        sha.update(canonical(attributes).encode())
        for name in sorted(self.tables):
            sha.update(canonical([name, list(self.tables[name])]).encode())
            for column in self.tables[name].values():
                f = column.field
                sha.update(canonical([f.dtype, f.unit, f.description, f.measured]).encode())
                if everything or not f.measured:
                    sha.update(_value_bytes(column))
        if everything:
            sha.update(canonical(self.provenance).encode())
        return sha.hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the one spelling that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True)


def files_digest(paths: Iterable[str]) -> str:
    """SHA-256 over the content of a user's files, in their order.

    Raises:
        InputError: one cannot be read.
    """
    found = hashlib.sha256()
    for path in paths:
        try:
            content = Path(path).expanduser().read_bytes()
        except OSError as error:
            raise InputError(f"the file {path!r} cannot be read ({error.strerror}); check the path") from None
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()


def _value_bytes(column: Column) -> bytes:
    if column.field.dtype == "str":
        return canonical(column.values.tolist()).encode()
    return len(column.values).to_bytes(8, "little") + bits(column).tobytes()


def bits(column: Column) -> np.ndarray:
    """The values as unsigned integers: equal where a reader sees the same, so 0.0 and -0.0 differ, two NaNs do not."""
    values = np.ascontiguousarray(column.values)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
    return values.view(f"<u{values.dtype.itemsize}")
