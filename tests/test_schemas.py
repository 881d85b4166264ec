"""The tables: every schema is listed, and their reference is the one in docs/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedbound import schemas
from fedbound.artifacts import Schema
from fedbound.plan import STAGES
from fedbound.report.collect import SOURCES

LISTED = [(stage, name, schema) for stage, tables in schemas.TABLES.items() for name, schema in tables.items()]


def test_every_schema_is_listed_once() -> None:
    declared = [value for value in vars(schemas).values() if isinstance(value, Schema)]
    assert sorted(map(id, declared)) == sorted(id(schema) for _, _, schema in LISTED)
    assert tuple(schemas.TABLES) == (*STAGES, "bench")


@pytest.mark.parametrize(("stage", "name", "schema"), LISTED, ids=lambda one: one if isinstance(one, str) else "")
def test_every_column_has_a_meaning_and_numbers_a_unit(stage: str, name: str, schema: Schema) -> None:
    assert schema.fields
    for column, field in schema.fields.items():
        assert field.description, (stage, name, column)
        assert bool(field.unit) == (field.dtype != "str"), (stage, name, column)
        assert np.dtype("O" if field.dtype == "str" else field.dtype).kind in "Oif"
        if field.unit in ("s", "byte/s"):
            assert field.measured, f"{stage}/{name}/{column}: a time is measured"


def test_collected_tables_come_from_listed_ones() -> None:
    for source in SOURCES.values():
        assert schemas.TABLES[source.stage][source.table] is source.schema
        assert set(source.keys) <= set(schemas.STUDY_KEYS)


def test_the_reference_in_docs_is_current(repository: Path) -> None:
    """Renew it: python -c "from fedbound.schemas import markdown; open('docs/tables.md', 'w').write(markdown())" """
    assert (repository / "docs" / "tables.md").read_text(encoding="utf-8") == schemas.markdown()


def test_the_reference_has_every_column() -> None:
    text = schemas.markdown()
    for _, name, schema in LISTED:
        assert f"### `{name}`\n" in text
        for column in schema.fields:
            assert f"| `{column}` | " in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace(r"\|", "").count("|") == 6 for line in rows)
