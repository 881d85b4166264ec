"""The driver job: what sbatch is asked for."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from fedbound import workflow
from fedbound.cli import main
from fedbound.cluster.submit import Driver
from fedbound.errors import InputError


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A folder with a profile, and an sbatch that writes down how it was called."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/profile.yaml").write_text("executor: slurm\n")
    (tmp_path / "site.yaml").write_text(
        "default-resources: {slurm_account: grant, slurm_partition: long, mem_mb: 2000}\n"
    )
    (tmp_path / "s.yaml").write_text("study: x\n")
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\nfor word; do echo "$word"; done >called.txt\necho "17;cluster"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_driver_is_small_gets_sigint_in_time_and_is_alone(repository, capsys):
    assert main(["submit", "s.yaml", "--site", "site.yaml", "--time", "600", "--snakemake=runs --jobs 8"]) == 0
    called = (repository / "called.txt").read_text().splitlines()
    for word in ("--job-name=fedbound-x", "--dependency=singleton", "--signal=B:INT@120", "--ntasks=1", "--time=600"):
        assert word in called
    assert {"--account=grant", "--partition=long"} <= set(called)
    wrapped = called[called.index("--wrap") + 1]
    expected = "exec snakemake runs --jobs 8 --profile slurm --workflow-profile site.yaml --configfile s.yaml"
    assert wrapped == expected
    assert "Slurm job 17 runs the study x" in capsys.readouterr().out


def test_a_driver_of_several_cores_runs_light_cells_and_has_their_memory(repository, monkeypatch):
    sbatch = repository / "bin/sbatch"
    sbatch.write_text(sbatch.read_text() + 'echo "$FEDBOUND_IN_DRIVER" >light.txt\n')
    (repository / "s.yaml").write_text("study: x\nresources: {simulate: {mem_mb: 3000}, privacy: {mem_mb: 500}}\n")
    assert main(["submit", "s.yaml", "--cores", "16"]) == 0
    called = (repository / "called.txt").read_text().splitlines()
    assert {"--cpus-per-task=16", f"--mem={2000 + 16 * 3000}"} <= set(called)
    assert "--local-cores 16 --configfile s.yaml" in called[called.index("--wrap") + 1]
    assert (repository / "light.txt").read_text() == "privacy simulate\n"
    monkeypatch.setenv("FEDBOUND_IN_DRIVER", "privacy simulate")
    assert workflow.in_driver() == ["privacy", "simulate"]
    assert main(["submit", "s.yaml"]) == 0
    assert "--cpus-per-task=1" in (repository / "called.txt").read_text().splitlines()
    assert (repository / "light.txt").read_text() == "\n"
    assert main(["submit", "s.yaml", "--cores", "0"]) == InputError.exit_code


def test_a_site_may_list_its_default_resources_as_snakemake_allows(tmp_path):
    (tmp_path / "profile.yaml").write_text("default-resources: [slurm_partition=main, mem_mb=5]\n")
    command = Driver("x", [], tmp_path, 10, 500, []).command()
    assert "--partition=main" in command
    assert not [word for word in command if word.startswith("--account")]


def test_names_with_spaces_stay_whole(tmp_path):
    wrapped = Driver("x", [Path("a b.yaml")], None, 10, 500, []).command()[-1]
    assert shlex.split(wrapped)[-1] == "a b.yaml"


def test_elsewhere_than_in_the_repository_it_is_refused(repository, capsys):
    (repository / "slurm/profile.yaml").unlink()
    assert main(["submit", "s.yaml"]) == InputError.exit_code
    assert "no slurm/profile.yaml here" in capsys.readouterr().err
