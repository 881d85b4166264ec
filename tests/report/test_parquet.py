"""The tables as Parquet: the same values, types and meanings as in study.h5."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from fedbound.artifacts import Artifact
from fedbound.report import stage


def test_parquet_holds_every_table_with_units(collected: Artifact, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert stage.write_parquet(collected, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.parquet")} == set(collected.tables)
    for name, table in collected.tables.items():
        read = parquet.read_table(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(read.to_pandas(), collected[name].reset_index(drop=True), check_dtype=False)
        for key, column in table.items():
            field = read.schema.field(key)
            assert field.metadata[b"unit"].decode() == column.field.unit
            assert field.metadata[b"description"].decode() == column.field.description
            assert str(field.type) == {"str": "string", "float64": "double"}.get(column.field.dtype, column.field.dtype)


def test_without_pyarrow_none_is_written_and_none_of_before_is_left(collected, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "runs.parquet").write_bytes(b"old")
    assert not stage.write_parquet(collected, tmp_path)
    assert not list(tmp_path.iterdir())
