"""The rule that a test which must run may not be skipped, tried on small test files of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = """
import pytest

def test_runs(): pass

@pytest.mark.skip(reason="no SimGrid here")
def test_marked(): pass

@pytest.mark.xfail(reason="known")
def test_expected(): assert False

def test_inside(): pytest.skip("LibPressio is not installed")
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, repository: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("FEDBOUND_NO_SKIP", raising=False)
    monkeypatch.delenv("FEDBOUND_MAY_SKIP", raising=False)
    pytester.makeconftest((repository / "tests" / "conftest.py").read_text())
    return pytester


def test_skips_are_skips_by_default(inner: pytest.Pytester) -> None:
    inner.makepyfile(TESTS)
    inner.runpytest_subprocess().assert_outcomes(passed=1, skipped=2, xfailed=1)


def test_a_skip_fails_where_it_must_run(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBOUND_NO_SKIP", "1")
    inner.makepyfile(TESTS)
    result = inner.runpytest_subprocess()
    result.assert_outcomes(passed=1, skipped=1, errors=1, xfailed=1)  # a mark skips in the setup: hence an error
    result.stdout.fnmatch_lines(["*must run here, but was skipped (no SimGrid here)*"])


def test_reasons_that_excuse_can_be_named(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBOUND_NO_SKIP", "1")
    monkeypatch.setenv("FEDBOUND_MAY_SKIP", "SimGrid")
    inner.makepyfile(TESTS)
    result = inner.runpytest_subprocess()
    result.assert_outcomes(passed=1, skipped=1, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["*must run here, but was skipped (LibPressio is not installed)*"])


def test_a_whole_file_that_is_skipped_fails_too(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBOUND_NO_SKIP", "1")
    inner.makepyfile("import pytest\npytest.importorskip('no_such_module_anywhere')\ndef test(): pass\n")
    result = inner.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.INTERRUPTED
