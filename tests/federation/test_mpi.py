"""Real MPI: the run equals the local one, killed jobs resume, and wrong settings are refused with one sentence."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedbound import artifacts, study
from fedbound.errors import InputError
from fedbound.federation import checkpoint, stage
from fedbound.federation.ledger import Ledger
from fedbound.federation.transports import mpi

BIN = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=str(BIN)) or shutil.which("mpiexec")
pytestmark = [pytest.mark.mpi, pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")]


def scenario(rounds: int) -> str:
    """Private, with noise that can be repeated."""
    privacy = {"noise_multiplier": 0.05, "insecure_seed": True}
    return study.TrainScenario(
        study="t",
        data=study.Data(silos=3),
        model={"name": "mlp", "hidden": [64]},
        training=study.Training(rounds=rounds, privacy=privacy),
        exchange=study.Exchange(codec="sz3", bound=0.1),
        seed=1,
    ).model_dump_json()


def command(out: Path, rounds: int, ranks: int = 4) -> list[str]:
    launch = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-m", "fedbound", "train"]
    return [*launch, "--scenario", scenario(rounds), "--out", str(out)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment, check=False)


def local(out: Path, rounds: int) -> artifacts.Artifact:
    arguments = [sys.executable, "-m", "fedbound", "train", "--transport", "local"]
    done = run([*arguments, "--scenario", scenario(rounds), "--out", str(out)])
    assert done.returncode == 0, done.stderr
    return artifacts.read(out, "train")


def test_killed_anywhere_it_resumes_to_the_numbers_of_an_uninterrupted_local_run(tmp_path):
    """kill -9 of a silo, of the server and of the whole job, in one history; the fourth start finishes.

    Noised messages of all four starts are in the accountant's count.
    """
    rounds = 150
    expected = local(tmp_path / "local.h5", rounds)
    out = tmp_path / "mpi.h5"
    folder = tmp_path / ".checkpoints" / "mpi"
    reached = 0
    for victim in ("silo", "server", "job"):
        reached = _kill_after(command(out, rounds), folder, reached + 12, victim)
        assert not out.exists()
    released = [Ledger(file).releases for file in sorted(folder.glob("*/ledger-*.jsonl"))]
    done = run(command(out, rounds))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after round" in done.stdout
    resumed = artifacts.read(out, "train")
    charged = ("releases", "epsilon")  # a replayed round is charged again
    assert [d for d in artifacts.differences(expected, resumed) if not any(name in d for name in charged)] == []
    resumed_from = resumed["summary"]["resumed_from"][0]
    assert resumed_from >= reached
    assert len(released) == 3
    assert resumed["silos"]["releases"].values.max() == max(released) + rounds - resumed_from
    assert not folder.exists()


def _kill_after(arguments: list[str], folder: Path, label: int, victim: str) -> int:
    """Start the job, kill -9 the victim once the server has saved `label`, and return the last label seen."""
    label = max(label, _latest(folder) + 12)  # the start before may have come further before it was killed
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while (seen := _latest(folder)) < label:
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline, f"label {label} was not reached"
        time.sleep(0.005)
    ranks = _ranks(arguments[-1])
    assert len(ranks) == 4
    if victim == "job":
        os.killpg(job.pid, signal.SIGKILL)
    for pid in ranks if victim == "job" else [ranks[0 if victim == "server" else -1]]:
        with contextlib.suppress(ProcessLookupError):  # the launcher's end may have taken it along
            os.kill(pid, signal.SIGKILL)
    code = job.wait(timeout=30)
    assert code != 0
    _gone(ranks)
    return seen


def _latest(folder: Path) -> int:
    return max((n for epoch in folder.glob("*/epoch-*") for n in checkpoint.labels(epoch, "server")), default=0)


def _ranks(out: str) -> list[int]:
    """Processes of the job that writes `out`, in rank order; other jobs on the machine are none of our business.

    Each rank is the child of a process that watches it, with the same command line.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environ = dict(x.split(b"=", 1) for x in (entry / "environ").read_bytes().split(b"\0") if b"=" in x)
        except (OSError, ValueError):
            continue
        if out.encode() in line and b"mpi4py" in line and b"PMI_RANK" in environ:
            found.append((int(environ[b"PMI_RANK"]), int(entry.name), parent))
    pids = {pid for _, pid, _ in found}
    return [pid for _, pid, parent in sorted(found) if parent in pids]


def _gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    for pid in pids:
        while time.monotonic() < deadline:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                break
            if state == "Z":
                break
            time.sleep(0.05)


def test_several_silos_share_a_rank(tmp_path):
    """Three silos on two ranks beside the server's: the same numbers as all in one process."""
    expected = local(tmp_path / "local.h5", 4)
    done = run(command(tmp_path / "mpi.h5", 4, ranks=3))
    assert done.returncode == 0, done.stdout + done.stderr
    assert artifacts.differences(expected, artifacts.read(tmp_path / "mpi.h5", "train")) == []


def test_the_server_may_hold_silos(tmp_path):
    """Three silos on two ranks, the server's one of them: the same numbers again."""
    expected = local(tmp_path / "local.h5", 4)
    done = run([*command(tmp_path / "mpi.h5", 4, ranks=2), "--server-hosts"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert artifacts.differences(expected, artifacts.read(tmp_path / "mpi.h5", "train")) == []


def test_a_server_that_trains_goes_with_no_silo_that_it_would_keep_waiting(tmp_path):
    s = study.TrainScenario.model_validate_json(scenario(1))
    training = study.Training(algorithm="fedasync", scheduler={"name": "async"})
    with pytest.raises(InputError, match=r"--server-hosts: the scheduler 'async' aggregates while silos are out"):
        stage.run(s.model_copy(update={"training": training}), {}, checkpoints=tmp_path, server_hosts=True)


@pytest.mark.parametrize(("ranks", "silos"), [(2, 3), (3, 3), (4, 3), (4, 100), (65, 64), (8, 7)])
def test_ranks_hold_every_silo_once_and_evenly(ranks, silos):
    blocks = [mpi.hosted(rank, ranks, silos) for rank in range(ranks)]
    assert [silo for block in blocks for silo in block] == list(range(silos))
    sizes = [len(block) for block in blocks[1:]]
    assert max(sizes) - min(sizes) <= 1
    assert len(blocks[0]) == 0
    shared = [mpi.hosted(rank, ranks, silos, server_hosts=True) for rank in range(ranks)]
    assert [silo for block in shared for silo in block] == list(range(silos))
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_wrong_number_of_ranks_is_one_sentence(tmp_path):
    done = run(command(tmp_path / "x.h5", 1, ranks=5))
    assert done.returncode == 2
    lines = said(done)
    assert len(lines) == 1
    assert "needs 4 MPI ranks" in lines[0]
    assert "mpiexec -n 4" in lines[0]


def test_one_process_without_a_launcher_is_refused(tmp_path):
    arguments = [sys.executable, "-m", "fedbound", "train", "--scenario", scenario(1), "--out", str(tmp_path / "x.h5")]
    done = run(arguments)
    assert done.returncode == 2
    assert "--transport local" in done.stderr


def test_bad_input_met_before_mpi_starts_is_one_sentence(tmp_path):
    arguments = command(tmp_path / "x.h5", 1)
    done = run([*arguments, "--input", "bounds=nowhere.h5"])
    assert done.returncode == 2
    assert said(done) == ["fedbound: --input: nowhere.h5 does not exist; run the stage that writes it"]


@pytest.mark.parametrize("failing", [0, 2])
def test_bad_input_that_one_rank_meets_is_said_and_ends_all(tmp_path, failing):
    """Before MPI starts: a file missing on one node. The others are in the round loop, or wait for its first step."""
    arguments = command(tmp_path / "x.h5", 1)
    at = arguments.index("-m")
    arguments[at : at + 4] = ["-m", "mpi4py", "-c", ONE_RANK_FAILS, str(failing)]
    done = run(arguments)
    assert done.returncode == 2
    prefix = f"rank {failing}: " if failing else ""
    assert said(done) == [f"fedbound: {prefix}this node has no such file"]


ONE_RANK_FAILS = """
import os, sys
from fedbound import cli, errors
from fedbound.federation.transports import last_words
last_words.LONGEST_WAIT = 1e6  # rank 0 must hear of it
def refuse(pairs):
    raise errors.InputError("this node has no such file")
if os.environ["PMI_RANK"] == sys.argv.pop(1):
    cli._inputs = refuse
sys.exit(cli.main(sys.argv[1:]))
"""


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("fedbound:")]
