"""An artifact as an HDF5 file: made in memory, sealed, put in its place as a whole."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import uuid
from dataclasses import astuple
from typing import Any

import h5py
import numpy as np

from fedbound.artifacts.files import SEAL_SIZE, seal_of, write_atomically
from fedbound.artifacts.tables import Artifact, Column, Field, Table, canonical

_FORMAT = ("v110", "v110")  # the first HDF5 format whose metadata carry checksums; read by every HDF5 >= 1.10
_COMPRESS_FROM = 16384  # bytes; below that a chunk index costs more than gzip saves


def write(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Write `artifact` to `path`: temporary file beside it, fsync, rename. An old file stays until the new is whole.

    Raises:
        ArtifactError: the folder cannot be written, or the disk is full; nothing is left behind.
        ValueError: a table's columns differ in length, or a name cannot be one in HDF5.
    """
    # Made in memory first: a full disk is then an ordinary OSError, and no half-closed HDF5 file stays in the process.
    with h5py.File(
        uuid.uuid4().hex, "w", driver="core", backing_store=False, userblock_size=SEAL_SIZE, libver=_FORMAT
    ) as file:
        _write_file(file, artifact)
        file.flush()
        image = file.id.get_file_image()
    write_atomically(path, seal_of(len(image), hashlib.sha256(image).hexdigest()) + image)


def _write_file(file: h5py.File, artifact: Artifact) -> None:
    for key, value in artifact.attributes().items():
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
    group.attrs["fields"] = fields_text(table)


def fields_text(table: Table) -> str:
    """All columns' names and meanings in one attribute: who reads thousands of files need not ask column by column."""
    return canonical([[key, *astuple(column.field)] for key, column in table.items()])


@functools.lru_cache(maxsize=256)
def fields_of(text: str) -> tuple[tuple[str, Field], ...]:
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
