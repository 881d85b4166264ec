"""What differs in content between two artifacts (`fedbound inspect --diff`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedbound.artifacts.tables import Artifact, Column, Table, bits, canonical


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
    rows = np.flatnonzero(a.values != b.values if text else bits(a) != bits(b))
    if len(rows):
        yield f"{len(rows)} rows differ, first row {rows[0]}: {a.values[rows[0]]} | {b.values[rows[0]]}"
