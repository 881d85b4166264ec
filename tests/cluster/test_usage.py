"""What sacct says, in all its spellings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedbound.cluster import logs, usage


@pytest.mark.parametrize(("text", "seconds"), [
    ("00:03.250", 3.25), ("01:02:03", 3723), ("2-03:00:00", 2 * 86400 + 3 * 3600), ("12:00", 720), ("", math.nan),
])  # fmt: skip
def test_durations(text, seconds):
    assert usage._duration(text) == pytest.approx(seconds, nan_ok=True)


@pytest.mark.parametrize(("text", "megabytes"), [
    ("2000M", 2000), ("1.5G", 1536), ("500Mc", 2000), ("500Mn", 1000), ("1048576K", 1024), ("", math.nan),
])  # fmt: skip
def test_memory_asked_for_by_job_core_and_node(text, megabytes):
    assert usage._asked(text, cores=4, nodes=2) / 2**20 == pytest.approx(megabytes, nan_ok=True)


def test_without_accounting_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert usage.accounting(["1", "2"], tmp_path) == {}
    assert usage.parse("Slurm accounting storage is disabled\n", tmp_path) == {}


@pytest.mark.parametrize("text", ["", "s\n", "s\tmax_rss\tcpu_time\n1.5\tNA\t-\n", "\0\n"])
def test_a_benchmark_file_may_say_little(tmp_path, text):
    artifact = Path(tmp_path, "results/x/train/a.h5")
    path = logs.benchmark(artifact)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = usage.benchmark(artifact)
    assert found.seconds == (1.5 if "1.5" in text else pytest.approx(math.nan, nan_ok=True))
    assert math.isnan(found.memory)
