"""A training whose ranks are on two nodes, started by srun; and a launcher that puts them all on the first.

Over the sandbox's virtual nodes the embedded MPICH 5 fails now and then; Intel's MPI, of the same ABI,
does not. `make test-slurm` puts it into `.impi`; FEDBOUND_IMPI names another folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from fedbound import artifacts, plan, study
from fedbound.cluster import logs

pytestmark = pytest.mark.slurm
BIN = Path(sys.executable).parent
STUDY = {
    "study": "two",
    "seeds": [0],
    "data": {"silos": 3},
    "model": {"name": "mlp", "hidden": [8]},
    "training": {"rounds": 3, "local_epochs": 1},
    "exchange": {"codec": "none"},
}


def run(sandbox, repository: Path, folder: Path, launcher: str, **more: str) -> tuple[int, Path]:
    """Train on two nodes through snakemake; its exit code and the artifact's path. Ranks write down their nodes."""
    where = folder / "where"
    where.write_text('#!/bin/sh\necho "$SLURMD_NODENAME" >>nodes.txt\nexec "$@"\n')
    where.chmod(0o755)
    (folder / "s.yaml").write_text(yaml.safe_dump(STUDY))
    site = yaml.safe_load((repository / "slurm/sandbox/profile.yaml").read_text())
    site["set-resources"]["train"] = {"mpi": launcher, "nodes": 2, "inside": str(where)}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    command = [str(BIN / "snakemake"), "runs", "--snakefile", str(repository / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(repository / "slurm"), "--workflow-profile", str(folder / "site.yaml")]
    command += ["--configfile", str(folder / "s.yaml"), "--slurm-init-seconds-before-status-checks", "5"]
    env = {key: value for key, value in sandbox.env.items() if key != "FEDBOUND_PLAN"}
    env |= {"PATH": f"{BIN}{os.pathsep}{env['PATH']}", **more}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    (job,) = plan.make(study.parse(STUDY)).jobs["train"].values()
    (folder / "said.txt").write_text(done.stdout + done.stderr)
    return done.returncode, folder / job.path


def said(folder: Path, artifact: Path) -> str:
    log = logs.rule_log(artifact)
    return (folder / "said.txt").read_text() + (log.read_text() if log.exists() else "")


@pytest.fixture
def impi(repository: Path) -> Path:
    """Intel's MPI library."""
    library = Path(os.environ.get("FEDBOUND_IMPI") or repository / ".impi") / "lib" / "libmpi.so.12"
    if not library.exists():
        pytest.skip(f"no {library}; pip install impi-rt into an environment and name it by FEDBOUND_IMPI")
    return library


def test_ranks_train_on_two_nodes(sandbox, repository, tmp_path, impi) -> None:
    code, path = run(sandbox, repository, tmp_path, "srun --mpi=pmi2 -K1", MPI4PY_LIBMPI=str(impi))
    assert code == 0, said(tmp_path, path)
    nodes = Counter((tmp_path / "nodes.txt").read_text().split())
    assert set(nodes) == {"n1", "n2"}
    assert nodes.total() == 4
    trained = artifacts.read(path, "train")
    assert trained["rounds"]["round"].tolist() == [0, 1, 2, 3]
    local = tmp_path / "local.h5"
    (job,) = plan.make(study.parse(STUDY)).jobs["train"].values()
    command = [str(BIN / "fedbound"), "train", "--transport", "local", "--scenario", job.scenario_json]
    subprocess.run([*command, "--out", str(local)], check=True, capture_output=True, timeout=300)
    assert artifacts.differences(trained, artifacts.read(local)) == []


def test_a_launcher_that_puts_all_ranks_on_the_first_node_is_refused_in_one_sentence(
    sandbox, repository, tmp_path
) -> None:
    code, path = run(sandbox, repository, tmp_path, "mpiexec")
    assert code == 1
    sentence = "this Slurm job has 2 nodes and its launcher knows of one only"
    assert sentence in logs.last_error(path), said(tmp_path, path)
    assert set((tmp_path / "nodes.txt").read_text().split()) == {"n1"}
