"""An artifact from its file, verified: damage, foreign files and newer schemas are refused in one sentence."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fedbound.artifacts.files import check_seal
from fedbound.artifacts.tables import SCHEMA, SCHEMA_VERSION, Artifact, Column, Field, Table
from fedbound.artifacts.writing import fields_of, fields_text
from fedbound.errors import ArtifactError

_ROOT_KEYS = ("schema", "schema_version", "stage", "study", "scenario", "seed", "package_version", "inputs")
_MAX_EXPANSION = 1100  # gzip cannot exceed about 1030:1, so a larger claim is damage, refused before allocation


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
        check_seal(path)
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
    root = _attributes_of(file.id)
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
        provenance=_attributes_of(file["provenance"].id),
        package_version=str(root["package_version"]),
    )
    expected = artifact.attributes()
    content = str(root["content_digest"])
    whole = wanted is None
    if any(root[key] != expected[key] for key in _ROOT_KEYS) or (whole and content != artifact.content_digest()):
        raise ArtifactError(f"{path} was altered after it was written; run its stage again")
    return artifact, str(root["digest"]), content


def _attributes_of(node: Any) -> dict[str, Any]:
    """All attributes of a group, as str, int and float; by HDF5's own calls, as h5py's take several times as long."""
    found = {}
    for index in range(h5py.h5a.get_num_attrs(node)):
        attribute = h5py.h5a.open(node, index=index)
        value = np.empty(attribute.shape, attribute.dtype)
        attribute.read(value)
        plain = value[()]
        found[attribute.name.decode()] = plain.decode() if isinstance(plain, bytes) else plain.item()
    return found


def _read_table(group: h5py.Group, file_size: int, checked: bool) -> Table:
    """The table; unless `checked`, meanings are taken from its own attribute, and not compared with the columns'."""
    told = h5py.h5a.exists(group.id, b"fields")  # older files have none
    together = _attribute(group.id, b"fields", _TEXT).decode() if told else None
    if together is not None and not checked:
        return {key: Column(field, _read_column(group, key, field, file_size)) for key, field in fields_of(together)}
    table = {}
    for key in map(str, group.attrs["column-order"]):
        field = _read_field(group, key)
        table[key] = Column(field, _read_column(group, key, field, file_size))
    if together is not None and together != fields_text(table):
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
    if text and h5py.check_string_dtype(dtype) is None:
        raise ValueError("a dataset of text holds none")
    values = np.empty(shape, dtype)
    if size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return np.array([value.decode() for value in values.tolist()], dtype=object) if text else values
