"""The collect stage: study.h5, and beside it report.html and the tables as CSV and, given pyarrow, as Parquet."""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbound import study
from fedbound.artifacts import Artifact, Column, write_atomically
from fedbound.errors import ArtifactError
from fedbound.report import collect, html

COLUMNS = ("table", "column", "dtype", "unit", "measured", "description")


def run(scenario: study.CollectScenario, inputs: Mapping[str, Path], out: Path, allow_holes: bool = False) -> Artifact:
    """Collect a study; write `report.html` and `tables/*.csv` beside `out` and return what belongs into `out`.

    Args:
        scenario: the collect job's scenario.
        inputs: path of each artifact by `stage/stem`.
        out: where study.h5 will be written; by whoever called, and last, so that its presence means all is there.
        allow_holes: report a study with missing or unreadable artifacts, and say which.

    Raises:
        ArtifactError: an artifact is missing, damaged or of another study; or the folder cannot be written.
    """
    artifact = collect.run(scenario, inputs, allow_holes)
    write_tables(artifact, out.parent / "tables")
    if not write_parquet(artifact, out.parent / "tables"):
        print("tables/*.parquet are left out: pyarrow is not installed (pip install 'fedbound[parquet]')", flush=True)
    replace(out.parent / "report.html", html.render(artifact))
    return artifact


def write_tables(artifact: Artifact, folder: Path) -> None:
    """Every table as CSV (UTF-8, full precision, empty for NaN), and `columns.csv` with unit and meaning of each."""
    for name in artifact:
        replace(folder / f"{name}.csv", artifact[name].to_csv(index=False, lineterminator="\n"))
    replace(folder / "columns.csv", _columns(artifact))


def write_parquet(artifact: Artifact, folder: Path) -> bool:
    """Every table as Parquet, each column with its unit and description as metadata; False without pyarrow.

    Parquet files of an earlier collection are removed where no new ones can be written.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        for name in artifact:
            (folder / f"{name}.parquet").unlink(missing_ok=True)
        return False
    for name, table in artifact.tables.items():
        columns = [pyarrow.array(column.values.tolist(), _arrow(pyarrow, column)) for column in table.values()]
        meanings = [
            pyarrow.field(
                key,
                _arrow(pyarrow, column),
                metadata={
                    "unit": column.field.unit,
                    "description": column.field.description,
                    "measured": str(int(column.field.measured)),
                },
            )
            for key, column in table.items()
        ]
        content = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, schema=pyarrow.schema(meanings)), content)
        write_atomically(folder / f"{name}.parquet", content.getvalue())
    return True


def _arrow(pyarrow: Any, column: Column) -> Any:
    """The Arrow type of a column: text, or the number's own."""
    return pyarrow.string() if column.field.dtype == "str" else pyarrow.from_numpy_dtype(column.values.dtype)


def _columns(artifact: Artifact) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, table in artifact.tables.items():
        for key, column in table.items():
            field = column.field
            writer.writerow([name, key, field.dtype, field.unit, int(field.measured), field.description])
    return text.getvalue()


def replace(path: Path, content: str) -> None:
    """Write a text file so that readers see the old one or the whole new one.

    Raises:
        ArtifactError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error}; check space and permissions there") from error
    finally:
        temporary.unlink(missing_ok=True)
