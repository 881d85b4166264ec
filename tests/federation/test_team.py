"""Silos of several ranks: over real MPI, the numbers of one rank up to float32 sums."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedbound import artifacts, models, study, workflow
from fedbound.codecs import wire
from fedbound.errors import FederationError, InputError
from fedbound.federation import checkpoint, team
from fedbound.federation.assembly import Assembly
from fedbound.federation.transports import mpi
from fedbound.plan import Job

BIN = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=str(BIN)) or shutil.which("mpiexec")


def scenario(ranks: int, rounds: int = 3, **training: object) -> study.TrainScenario:
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=1),
        model={"name": "mlp", "hidden": [16]},
        training=study.Training(rounds=rounds, ranks_per_silo=ranks, **training),
        exchange=study.Exchange(codec="none"),
        seed=1,
    )


def command(out: Path, scenario: study.TrainScenario, ranks: int) -> list[str]:
    launch = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "fedbound", "train"]
    return [*launch, "--scenario", scenario.model_dump_json(), "--out", str(out)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, capture_output=True, text=True, timeout=400, env=environment, check=False)


def trained_alone(scenario: study.TrainScenario) -> dict[str, list]:
    one = study.Training.model_validate({**scenario.training.model_dump(), "ranks_per_silo": 1})
    made = Assembly(scenario.data, scenario.model, one, scenario.exchange, scenario.seed)
    server = made.server(made.local())
    server.run()
    return server.records.rows


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")
def test_two_ranks_give_the_numbers_of_one_and_killed_they_resume_to_the_same_bits(tmp_path: Path) -> None:
    """IIADMM, whose dual the member must get: a batch of 256 splits evenly, the last one of an epoch does not.

    Then kill -9 of a whole job: the member keeps nothing, so the rerun ends with the bits of an uninterrupted one.
    """
    given = scenario(2, rounds=20, algorithm="iiadmm", batch_size=256, local_epochs=1)
    done = run(command(tmp_path / "whole.h5", given, 3))
    assert done.returncode == 0, done.stdout + done.stderr
    found, alone = artifacts.read(tmp_path / "whole.h5", "train"), trained_alone(given)
    for key in ("train_loss", "steps", "samples"):
        np.testing.assert_allclose(found["silos"][key], [row[key] for row in alone["silos"]], rtol=1e-4)
    losses = [row["test_loss"] for row in alone["evaluations"]]
    np.testing.assert_allclose(found["evaluations"]["test_loss"], losses, rtol=1e-4)
    assert losses[-1] < 0.9 * losses[0]

    arguments = command(tmp_path / "cut.h5", given, 3)
    job = subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
    folder, deadline = tmp_path / ".checkpoints" / "cut", time.monotonic() + 300
    while max((n for one in folder.glob("*/epoch-*") for n in checkpoint.labels(one, "server")), default=0) < 2:
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(timeout=30)
    done = run(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after round" in done.stdout
    assert artifacts.differences(found, artifacts.read(tmp_path / "cut.h5")) == []


@pytest.mark.parametrize(("size", "batch"), [(2, 32), (3, 32), (4, 3), (2, 1)])
def test_weighted_shares_make_the_mean_of_the_batch(size: int, batch: int) -> None:
    values = np.random.default_rng(0).normal(size=batch)
    total = 0.0
    for rank in range(size):
        member = team.Team.__new__(team.Team)
        member.rank, member.size = rank, size
        part, weight = member.share(np.arange(batch))
        assert len(part)
        total += weight * values[part].mean() / size
    assert total == pytest.approx(values.mean())


def test_the_layout_of_ranks() -> None:
    assert mpi.hosts(7, 3, 2) == {0: 1, 1: 3, 2: 5}
    assert mpi.hosts(3, 4, 1) == {0: 1, 1: 1, 2: 2, 3: 2}
    job = Job("train", "x", scenario(3).model_dump(mode="json"), {}, "x.h5")
    assert workflow.ranks(job) == 4
    assert workflow.ranks(Job("train", "x", scenario(1).model_dump(mode="json"), {}, "x.h5")) == 2


def test_a_leader_that_fails_while_the_others_wait_in_a_sum_ends_the_job() -> None:
    """Also under `drop`: what it fails at outside training the server hears of, as of any silo."""
    given = scenario(2)
    made = Assembly(given.data, given.model, given.training, given.exchange, given.seed)
    transport = made.local()
    silo = transport.members[0]

    class Leader:
        rank, size, training = 0, 2, False

        def lead(self, *order: object) -> None:
            self.training = True

        def wrap(self, module: object, device: object) -> object:
            raise RuntimeError("CUDA error: out of memory")

    silo.team = Leader()
    server = made.server(transport)
    with pytest.raises(FederationError, match="the leader of silo 0 failed in training: RuntimeError: CUDA error"):
        server.run()
    silo.team.training = False
    silo.holder = None  # a failure between rounds
    answer = silo.handle(wire.pack(wire.Message(wire.Kind.MODEL, -1, 1, 1, [], {})))
    assert wire.peek(answer).kind == wire.Kind.FAILURE


def test_one_rank_per_silo_is_the_scenario_that_it_was() -> None:
    assert "ranks_per_silo" not in scenario(1).model_dump_json()
    assert study.TrainScenario.model_validate_json(scenario(2).model_dump_json()) == scenario(2)


def test_what_cannot_be_shared_is_refused() -> None:
    module = models.build({"name": "resnet", "norm": "batch"}, (1, 8, 8), 10, 0)
    with pytest.raises(InputError, match=r"ranks_per_silo.*batch normalisation.*norm: group"):
        team.check(module)
    team.check(models.build({"name": "resnet"}, (1, 8, 8), 10, 0))
    private = {"unit": "record", "mechanism": "gaussian", "noise_multiplier": 1.0}
    with pytest.raises(InputError, match=r"ranks_per_silo: 2 is refused with privacy\.unit 'record'"):
        study.parse({"study": "s", "training": {"ranks_per_silo": 2, "privacy": private}})


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")
def test_a_wrong_number_of_ranks_is_one_sentence(tmp_path: Path) -> None:
    done = run(command(tmp_path / "x.h5", scenario(3), 2))
    assert done.returncode == 2
    assert "needs 4 MPI ranks (one server and 1 silos of training.ranks_per_silo: 3)" in done.stderr
    alone = [sys.executable, "-m", "fedbound", "train", "--transport", "local", "--out", str(tmp_path / "x.h5")]
    done = run([*alone, "--scenario", scenario(2).model_dump_json()])
    assert done.returncode == 2
    assert "training.ranks_per_silo: 2 needs MPI and a server of its own" in done.stderr
