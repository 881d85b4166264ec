"""HDF5 artifacts: written atomically, checked on load, readable by any HDF5 tool (design law 7).

An artifact holds root attributes (schema, stage, study, scenario, seed, package version, input digests), tables under
`/tables`, and what varies from run to run under `/provenance`. A table is a group with one 1-D dataset per column and
the attributes `encoding-type`, `encoding-version` and `column-order` (AnnData's on-disk convention, AnnData docs
"fileformat-prose"); strings are stored as codes and categories. Every column carries `unit`, `description` and
`measured`: a measured column (or one computed from measurements) differs between two runs of the same study.

Two SHA-256 digests are stored: `digest` over everything, verified on load, and `content_digest` without
`/provenance` and measured columns, which identifies *what was computed*. A third seals the file: the HDF5 user block
holds size and digest of all bytes after it, checked before libhdf5 parses any of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from fedbound import __version__
from fedbound.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "fedbound"
SCHEMA_VERSION = 1
_ROOT_KEYS = ("schema", "schema_version", "stage", "study", "scenario", "seed", "package_version", "inputs")
_MAGIC = "fedbound artifact\n"
_SEAL_SIZE = 512  # bytes; the smallest user block that HDF5 knows
_FORMAT = ("v110", "v110")  # the first HDF5 format whose metadata carry checksums; read by every HDF5 >= 1.10
_COMPRESS_FROM = 16384  # bytes; below that a chunk index costs more than gzip saves
_MAX_EXPANSION = 1100  # gzip cannot exceed about 1030:1, so a larger claim is damage, refused before allocation


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
    for value in values:
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
    if values.dtype == wanted or values.size == 0:
        return values.astype(wanted, copy=False)
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

    def _attributes(self) -> dict[str, Any]:
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
        attributes = self._attributes()
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
    return len(column.values).to_bytes(8, "little") + _bits(column).tobytes()


def _bits(column: Column) -> np.ndarray:
    """The values as unsigned integers: equal where a reader sees the same, so 0.0 and -0.0 differ, two NaNs do not."""
    values = np.ascontiguousarray(column.values)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
    return values.view(f"<u{values.dtype.itemsize}")


def write(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Write `artifact` to `path`: temporary file beside it, fsync, rename. An old file stays until the new is whole.

    Raises:
        ArtifactError: the folder cannot be written, or the disk is full; nothing is left behind.
        ValueError: a table's columns differ in length, or a name cannot be one in HDF5.
    """
    # Made in memory first: a full disk is then an ordinary OSError, and no half-closed HDF5 file stays in the process.
    with h5py.File(
        uuid.uuid4().hex, "w", driver="core", backing_store=False, userblock_size=_SEAL_SIZE, libver=_FORMAT
    ) as file:
        _write_file(file, artifact)
        file.flush()
        image = file.id.get_file_image()
    write_atomically(path, _seal(len(image), hashlib.sha256(image).hexdigest()) + image)


def _seal(size: int, sha256: str) -> bytes:
    """The HDF5 user block: text that names the file, and size and digest of all bytes after it."""
    text = (
        f"{_MAGIC}size {size}\nsha256 {sha256}\n"
        f"HDF5 from byte {_SEAL_SIZE} on: any HDF5 tool reads this file; fedbound.load(path) also checks it.\n"
    )
    return text.encode().ljust(_SEAL_SIZE, b"\n")


def _check_seal(path: Path) -> None:
    """Refuse damage before libhdf5 sees it: one flipped bit in a string heap makes HDF5 2.0 loop for ever."""
    with open(path, "rb") as file:
        seal = file.read(_SEAL_SIZE)
        if not seal.startswith(_MAGIC.encode()):
            raise ArtifactError(
                f"{path} is no fedbound artifact, or its beginning is damaged; give a file that a fedbound stage wrote"
            )
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if seal != _seal(max(0, file.tell() - _SEAL_SIZE), digest):
            raise ArtifactError(f"{path} is truncated or was altered after it was written; run its stage again")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Make `path` hold `content`, whole and on disk; until then its old content stays. Folders are made as needed.

    Raises:
        ArtifactError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    target = Path(path)
    # hidden, and ending otherwise than any result: what a killed writer leaves is never taken for one
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _fsync_folder(target.parent)
    except OSError as error:
        raise ArtifactError(f"cannot write {target}: {error.strerror}; check space and permissions there") from error


def _fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_file(file: h5py.File, artifact: Artifact) -> None:
    for key, value in artifact._attributes().items():
        file.attrs[key] = value
    tables = file.create_group("tables")
    for name, table in artifact.tables.items():
        _write_table(tables, name, table)
    provenance = file.create_group("provenance")
    for key, value in artifact.provenance.items():
        provenance.attrs[key] = value
    file.attrs["content_digest"] = artifact.content_digest()
    file.attrs["digest"] = artifact.digest()


def _write_table(tables: h5py.Group, name: str, table: Table) -> None:
    for part in (name, *table):
        if part in ("", ".", "_index") or "/" in part:
            raise ValueError(f"table {name!r}: {part!r} cannot be a name in HDF5")
    if len({len(column.values) for column in table.values()}) > 1:
        raise ValueError(f"table {name!r}: columns differ in length")
    group = tables.create_group(name)
    _encoding(group, "dataframe")
    group.attrs["column-order"] = np.array(list(table), dtype=h5py.string_dtype())
    if table:
        group.attrs["_index"] = next(iter(table))  # AnnData readers ask for one; pandas' own default is as good
    for key, column in table.items():
        _write_column(group, key, column)
    group.attrs["fields"] = _fields_text(table)


def _fields_text(table: Table) -> str:
    """All columns' names and meanings in one attribute: who reads thousands of files need not ask column by column."""
    return canonical([[key, *astuple(column.field)] for key, column in table.items()])


@functools.lru_cache(maxsize=256)
def _fields(text: str) -> tuple[tuple[str, Field], ...]:
    return tuple((key, Field(*meaning)) for key, *meaning in json.loads(text))


def _write_column(group: h5py.Group, key: str, column: Column) -> None:
    if column.field.dtype == "str":
        node: Any = group.create_group(key)
        _encoding(node, "categorical")
        node.attrs["ordered"] = False
        categories = sorted(set(column.values))
        code = {category: index for index, category in enumerate(categories)}
        _encoding(_dataset(node, "codes", np.array([code[v] for v in column.values], dtype="<i4")), "array")
        _encoding(node.create_dataset("categories", data=categories, dtype=h5py.string_dtype()), "string-array")
    else:
        node = _dataset(group, key, column.values)
        _encoding(node, "array")
    node.attrs["unit"] = column.field.unit
    node.attrs["description"] = column.field.description
    node.attrs["measured"] = column.field.measured


def _encoding(node: Any, kind: str) -> None:
    node.attrs["encoding-type"] = kind
    node.attrs["encoding-version"] = "0.2.0"


def _dataset(group: h5py.Group, key: str, values: np.ndarray) -> h5py.Dataset:
    packed = {"compression": "gzip", "shuffle": True} if values.nbytes >= _COMPRESS_FROM else {}
    return group.create_dataset(key, data=values, **packed)


def read(path: str | os.PathLike[str], stage: str | None = None) -> Artifact:
    """Read and verify an artifact.

    Args:
        path: the HDF5 file.
        stage: refuse an artifact of another stage.

    Raises:
        ArtifactError: missing, truncated, altered, foreign, of a newer schema, or of another stage.
    """
    artifact, _ = _read(Path(path), None)
    if stage is not None and artifact.stage != stage:
        raise ArtifactError(f"{path} is a {artifact.stage!r} artifact where a {stage!r} one is needed; give that one")
    return artifact


def read_tables(path: str | os.PathLike[str], stage: str, tables: Collection[str]) -> tuple[Artifact, str]:
    """Read some tables of an artifact: for who reads thousands, and each only once.

    The seal shows that all bytes are as they were written; the digests within are not computed again.

    Returns:
        The artifact with those of `tables` that it has, and the content digest of the whole as it is stored.

    Raises:
        ArtifactError: as `read`.
    """
    artifact, content = _read(Path(path), tables)
    if artifact.stage != stage:
        raise ArtifactError(f"{path} is a {artifact.stage!r} artifact where a {stage!r} one is needed; give that one")
    return artifact, content


def _read(path: Path, tables: Collection[str] | None) -> tuple[Artifact, str]:
    try:
        _check_seal(path)
        # no lock: a finished artifact is never written again, and some parallel file systems have no locks
        with h5py.File(path, "r", locking=False) as file:
            artifact, digest, content = _read_file(file, path, tables)
        intact = tables is not None or artifact.digest() == digest
    except ArtifactError:
        raise
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; run the stage that writes it") from None
    except (PermissionError, IsADirectoryError) as error:
        raise ArtifactError(f"cannot read {path}: {os.strerror(error.errno or 0)}; give a readable file") from None
    except Exception as error:  # noqa: BLE001 - h5py raises many kinds on damage; each means the same to the user
        raise ArtifactError(f"{path} is truncated, damaged or no HDF5 file ({error}); run its stage again") from None
    if not intact:
        raise ArtifactError(f"{path} was altered after it was written (its digest does not match); run its stage again")
    return artifact, content


def _read_file(file: h5py.File, path: Path, wanted: Collection[str] | None) -> tuple[Artifact, str, str]:
    root = file.attrs
    if not str(root.get("schema", "")).startswith(f"{SCHEMA}/"):
        raise ArtifactError(f"{path} is no fedbound artifact; give a file that a fedbound stage wrote")
    version = int(root["schema_version"])
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {version} and this fedbound reads up to {SCHEMA_VERSION}; update fedbound"
        )
    size = path.stat().st_size
    groups = file["tables"]
    names = list(groups) if wanted is None else [name for name in groups if name in wanted]
    tables = {name: _read_table(groups[name], size, checked=wanted is None) for name in names}
    seed = int(root["seed"])
    artifact = Artifact(
        stage=str(root["stage"]),
        study=str(root["study"]),
        scenario=json.loads(root["scenario"]),
        seed=None if seed < 0 else seed,
        tables=tables,
        inputs=json.loads(root["inputs"]),
        provenance={key: _plain(value) for key, value in file["provenance"].attrs.items()},
        package_version=str(root["package_version"]),
    )
    expected = artifact._attributes()
    content = str(root["content_digest"])
    whole = wanted is None
    if any(_plain(root[key]) != expected[key] for key in _ROOT_KEYS) or (
        whole and content != artifact.content_digest()
    ):
        raise ArtifactError(f"{path} was altered after it was written; run its stage again")
    return artifact, str(root["digest"]), content


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _read_table(group: h5py.Group, file_size: int, checked: bool) -> Table:
    """The table; unless `checked`, meanings are taken from its own attribute, and not compared with the columns'."""
    together = group.attrs.get("fields")  # older files have none
    if together is not None and not checked:
        return {key: Column(field, _read_column(group, key, field, file_size)) for key, field in _fields(together)}
    table = {}
    for key in map(str, group.attrs["column-order"]):
        field = _read_field(group, key)
        table[key] = Column(field, _read_column(group, key, field, file_size))
    if together is not None and together != _fields_text(table):
        raise ValueError("a table's attribute `fields` differs from its columns")
    return table


def _read_field(group: h5py.Group, key: str) -> Field:
    node = h5py.h5o.open(group.id, key.encode())
    dtype = "str" if isinstance(node, h5py.h5g.GroupID) else node.dtype.newbyteorder("=").name
    measured = bool(_attribute(node, b"measured", bool))
    unit, description = (_attribute(node, name, _TEXT).decode() for name in (b"unit", b"description"))
    return Field(dtype, unit, description, measured)


def _read_column(group: h5py.Group, key: str, field: Field, file_size: int) -> np.ndarray:
    # by HDF5's own calls: h5py's comfortable ones take most of the time of reading a study
    node = h5py.h5o.open(group.id, key.encode())
    if field.dtype != "str":
        values = _read_values(node, file_size)
        if values.dtype.newbyteorder("=") != field.dtype:
            raise ValueError(f"column {key} holds {values.dtype} and not {field.dtype}")
        return values
    codes = _read_values(h5py.h5d.open(node, b"codes"), file_size)
    categories = _read_values(h5py.h5d.open(node, b"categories"), file_size, text=True)
    if len(codes) and not 0 <= codes.min() <= codes.max() < len(categories):
        raise ValueError("category codes out of range")
    return categories[codes] if len(codes) else np.array([], dtype=object)


_TEXT = h5py.string_dtype()


def _attribute(node: Any, name: bytes, dtype: Any) -> Any:
    value = np.empty((), dtype)
    h5py.h5a.open(node, name).read(value)
    return value[()]


def _read_values(dataset: h5py.h5d.DatasetID, file_size: int, text: bool = False) -> np.ndarray:
    made = dataset.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise ValueError("a dataset lies in another file")
    shape, dtype = dataset.shape, dataset.dtype
    size = math.prod(shape) * dtype.itemsize
    if size > _MAX_EXPANSION * file_size:
        raise ValueError(f"a dataset claims {size} bytes in a file of {file_size}")
    if text:
        return h5py.Dataset(dataset).asstr()[...]
    values = np.empty(shape, dtype)
    if size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def differences(a: Artifact, b: Artifact) -> list[str]:
    """What differs in content between two artifacts: one line each; measured columns and provenance do not count."""
    found: list[str] = []
    for key in ("stage", "study", "seed", "scenario", "inputs"):
        found += _value_differences(key, getattr(a, key), getattr(b, key))
    for name in sorted(a.tables.keys() | b.tables.keys()):
        if name not in a.tables or name not in b.tables:
            found.append(f"table {name}: only in {'the first' if name in a.tables else 'the second'}")
        else:
            found += [f"table {name}, {line}" for line in _table_differences(a.tables[name], b.tables[name])]
    return found


def _value_differences(key: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in sorted(a.keys() | b.keys()):
            if name not in a or name not in b:
                yield f"{key}.{name}: only in {'the first' if name in a else 'the second'}"
            else:
                yield from _value_differences(f"{key}.{name}", a[name], b[name])
    elif canonical(a) != canonical(b):
        yield f"{key}: {a} | {b}"


def _table_differences(a: Table, b: Table) -> Iterator[str]:
    if list(a) != list(b):
        yield f"columns: {list(a)} | {list(b)}"
        return
    for key in a:
        if a[key].field != b[key].field:
            yield f"column {key}: {a[key].field} | {b[key].field}"
        elif not a[key].field.measured:
            yield from (f"column {key}: {line}" for line in _column_differences(a[key], b[key]))


def _column_differences(a: Column, b: Column) -> Iterator[str]:
    if len(a.values) != len(b.values):
        yield f"{len(a.values)} rows | {len(b.values)} rows"
        return
    text = a.field.dtype == "str"
    rows = np.flatnonzero(a.values != b.values if text else _bits(a) != _bits(b))
    if len(rows):
        yield f"{len(rows)} rows differ, first row {rows[0]}: {a.values[rows[0]]} | {b.values[rows[0]]}"


def stamp(**more: str | int | float) -> dict[str, str | int | float]:
    """Provenance of this process: host, time, job id and library versions, with `more` added."""
    import platform
    import socket
    from datetime import UTC, datetime

    found: dict[str, str | int | float] = {
        "host": socket.gethostname(),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S +0000"),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
    return {**found, **more}
