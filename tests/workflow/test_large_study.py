"""The commands of `fedbound bench study` on its small version: they run, and say so; how fast is the bench's matter."""

from __future__ import annotations

import math

import pytest

from fedbound import bench
from fedbound.bench import rows
from fedbound.bench import study as large

pytestmark = pytest.mark.smoke


def test_every_command_of_the_bench_is_timed() -> None:
    found = bench.run("study", True, lambda line: None)
    assert rows.find(found, "scenarios", "study") == 105
    for case in large.CASES:
        assert math.isfinite(rows.find(found, "seconds", case)), case
        assert rows.find(found, "seconds", case) <= rows.find(found, "seconds_most", case)
        assert case in large.table(found)
