"""The synthetic study of `report_cases`, written and collected once; and that module on the path of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import report_cases

from fedbound import artifacts


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the whole synthetic study, read-only by convention."""
    return report_cases.written(tmp_path_factory.mktemp("artifacts"), report_cases.whole_study())


@pytest.fixture(scope="session")
def collected(inputs: dict[str, Path]) -> artifacts.Artifact:
    from fedbound.report import collect

    return collect.run(report_cases.collect_scenario(), inputs)
