"""Silos that stall, raise, send garbage or die, over real MPI: named, and handled by the policy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from fedbound import artifacts, study
from fedbound.federation import watch
from fedbound.federation.transports import mpi

BIN = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=str(BIN)) or shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")

# silo -> (number of the model that it fails at, how)
BROKEN = """
import json, os, sys, time
from fedbound import cli
from fedbound.codecs import wire
from fedbound.federation.silo import Silo
faults, handle, seen = json.loads(sys.argv.pop(1)), Silo.handle, {}
def broken(silo, buffer):
    seen[silo.number] = seen.get(silo.number, 0) + 1
    at, how = faults.get(str(silo.number), (0, ""))
    if seen[silo.number] == at and how == "stalls":
        time.sleep(600)
    if seen[silo.number] == at and how == "dies":
        os.kill(os.getpid(), 9)
    if seen[silo.number] == at and how == "raises":
        silo.client.hook = lambda *arguments: {}["the user's own mistake"]
    answer = handle(silo, buffer)
    if seen[silo.number] == at and how == "garbage":
        answer[-1] ^= 1
    return answer
Silo.handle = broken
sys.exit(cli.main(sys.argv[1:]))
"""


def start(out: Path, faults: str, **training: object) -> subprocess.CompletedProcess[str]:
    scenario = study.TrainScenario(
        study="t",
        data=study.Data(silos=3),
        model={"name": "mlp", "hidden": [16]},
        training=study.Training(rounds=6, **training),
        exchange=study.Exchange(codec="sz3", bound=0.1),
        seed=1,
    )
    program = [sys.executable, "-m", "mpi4py", "-c", BROKEN, faults, "train"]
    arguments = [str(MPIEXEC), "-n", "4", *program, "--scenario", scenario.model_dump_json(), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment, check=False)


def failures(out: Path) -> list[tuple[int, int, str, str]]:
    table = artifacts.read(out, "train")["failures"]
    return list(zip(*(table[key].values for key in ("round", "silo", "kind", "reason")), strict=True))


@needs_mpi
@pytest.mark.mpi
def test_a_silo_that_dies_is_named_and_the_next_start_goes_on_without_it(tmp_path):
    """kill -9 of a silo's process in round 3 of 6; the policy is to go on with two."""
    out = tmp_path / "run.h5"
    policy = {"on_failure": "drop", "least_silos": 2}
    died = start(out, '{"1": [3, "dies"]}', **policy)
    assert died.returncode not in (0, 2)
    assert not out.exists()
    assert "fedbound: rank 2 with silo 1 died (killed by SIGKILL); the job ends" in died.stderr
    again = start(out, '{"1": [1, "dies"]}', **policy)  # it would again, were it asked to do anything
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resuming after round 2" in again.stdout
    assert failures(out) == [(3, 1, "failed", "its process died in start 1 (killed by SIGKILL)")]
    silos = artifacts.read(out, "train")["silos"]
    took_part = {int(r): set() for r in silos["round"].values}
    for round_, silo in zip(silos["round"].values, silos["silo"].values, strict=True):
        took_part[int(round_)].add(int(silo))
    assert took_part == {1: {0, 1, 2}, 2: {0, 1, 2}, 3: {0, 2}, 4: {0, 2}, 5: {0, 2}, 6: {0, 2}}


@needs_mpi
@pytest.mark.mpi
def test_too_few_silos_left_by_deaths_end_the_run(tmp_path):
    policy = {"on_failure": "drop", "least_silos": 3}
    assert start(tmp_path / "run.h5", '{"0": [2, "dies"]}', **policy).returncode not in (0, 2)
    again = start(tmp_path / "run.h5", "{}", **policy)
    assert again.returncode == 1
    assert "training.least_silos (3)" in again.stderr


@needs_mpi
@pytest.mark.mpi
def test_a_stalled_silo_is_dropped_and_does_not_hold_up_the_end(tmp_path):
    out = tmp_path / "run.h5"
    faults = '{"0": [2, "raises"], "1": [2, "stalls"], "2": [4, "garbage"]}'
    done = start(out, faults, on_failure="drop", silo_timeout=2.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert failures(out) == [
        (2, 0, "failed", 'KeyError: "the user\'s own mistake"'),
        (2, 1, "failed", "it has not answered for 2 s"),
        (4, 2, "rejected", "message from silo 2 was altered on its way (CRC); it is rejected"),
    ]
    assert list(artifacts.read(out, "train")["rounds"]["round"].values[-1:]) == [5]  # one passed without an update


def test_the_first_certificate_of_a_start_counts(tmp_path):
    watch.certify(tmp_path, watch.Death(1, 2, [3, 4], "killed by SIGKILL"))
    watch.certify(tmp_path, watch.Death(1, 1, [0], "killed by SIGTERM"))
    watch.certify(tmp_path, watch.Death(2, 3, [5], "exit code 9"))
    (tmp_path / "death-0003.json").write_text('{"epoch": 3')
    found = watch.lost(tmp_path, range(6))
    assert sorted(found) == [3, 4, 5]
    assert found[5] == "its process died in start 2 (exit code 9)"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["death-0001.json", "death-0002.json", "death-0003.json"]


def test_a_timer_is_due_on_time_while_no_message_comes(monkeypatch):
    """On a clock of its own: never early, and no later than a pause, however long the wait has grown its pauses."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            assert 0 <= seconds <= 1e-3
            self.now += seconds + 1e-6

    clock = Clock()
    monkeypatch.setattr(mpi, "time", clock)
    monkeypatch.setattr(mpi, "take", lambda comm: None)
    transport = mpi.MpiTransport.__new__(mpi.MpiTransport)
    transport.comm, transport.here = None, deque()
    for timeout in (0.0, 1e-5, 0.01, 0.5):
        began = clock.now
        assert transport.receive(timeout) is None
        assert timeout <= clock.now - began <= timeout + 1e-5
