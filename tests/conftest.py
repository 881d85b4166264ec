"""Shared fixtures, and the rule that a test which must run here may not be skipped.

Environment:
    FEDBOUND_TEST_DATA   folder of the real data that tests use (default: ../shared/data beside the repository)
    FEDBOUND_NO_SKIP     1: a skipped test fails, unless its reason holds one of the words that may excuse it
    FEDBOUND_MAY_SKIP    those words, comma-separated (default: LibPressio,CUDA: not every machine can have these)
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
ROOT = Path(__file__).resolve().parents[1]

# Deterministic, so that a red run is red again; no deadlines, because machines that run tests are busy.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with the real data sets; skips the test where there is none."""
    folder = Path(os.environ.get("FEDBOUND_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set FEDBOUND_TEST_DATA")
    return folder


def _excused(reason: str) -> bool:
    words = os.environ.get("FEDBOUND_MAY_SKIP", "LibPressio,CUDA").split(",")
    return any(word.strip().lower() in reason.lower() for word in words if word.strip())


def _refuse_skip(report: Report) -> Report:
    """Turn a skip into a failure where skips are not allowed. (An expected failure is reported as a skip, too.)"""
    if os.environ.get("FEDBOUND_NO_SKIP") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not _excused(reason):
            report.outcome = "failed"
            report.longrepr = f"must run here, but was skipped ({reason.removeprefix('Skipped: ')})"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse_skip((yield))
