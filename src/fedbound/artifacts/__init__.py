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

from fedbound.artifacts.comparing import differences
from fedbound.artifacts.files import write_atomically
from fedbound.artifacts.provenance import stamp
from fedbound.artifacts.reading import read, read_tables
from fedbound.artifacts.tables import (
    SCHEMA,
    SCHEMA_VERSION,
    Artifact,
    Column,
    Field,
    Schema,
    Table,
    canonical,
    files_digest,
)
from fedbound.artifacts.writing import write

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "Artifact",
    "Column",
    "Field",
    "Schema",
    "Table",
    "canonical",
    "differences",
    "files_digest",
    "read",
    "read_tables",
    "stamp",
    "write",
    "write_atomically",
]
