"""Ranks that were asked for and started; nodes that a launcher does not know of."""

from __future__ import annotations

import pytest

from fedbound.errors import InputError
from fedbound.federation.transports import placement


@pytest.fixture
def job(monkeypatch, tmp_path):
    """A Slurm job of two nodes whose variables snakemake's job step has removed, but for its id."""
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 2\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_NODES", raising=False)


def test_as_many_ranks_as_were_asked_for():
    placement.check(5, 0, 5)
    placement.check(5, 0, None)
    with pytest.raises(InputError, match="asked for 5 MPI ranks and 2 were started"):
        placement.check(2, 1, 5)


def test_a_launcher_that_knows_of_one_node_only_is_refused_by_rank_0(job):
    placement.check(5, 1, 5)
    with pytest.raises(InputError, match="has 2 nodes and its launcher knows of one only"):
        placement.check(5, 0, 5)


@pytest.mark.parametrize("variable", ["SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES"])
def test_srun_tells_its_ranks_of_all_nodes(job, monkeypatch, variable):
    """Within a snakemake job of the step's only; tests/slurm/test_two_nodes.py has the real thing."""
    monkeypatch.setenv(variable, "2")
    placement.check(5, 0, 5)
