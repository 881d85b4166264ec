"""A character language model federated by speaker with compressed exchange: over real MPI as in one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedbound import artifacts, study

BIN = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=str(BIN)) or shutil.which("mpiexec")


def scenario(path: Path) -> str:
    made = study.parse(
        {
            "study": "t",
            "data": {"dataset": {"name": "text", "path": str(path), "context": 32}, "silos": 2, "partition": "natural"},
            "model": {"name": "transformer", "width": 32, "layers": 1},
            "training": {"rounds": 3, "local_epochs": 1, "optimizer": "adam", "learning_rate": 0.01},
            "exchange": {"codec": "ebq", "bound": 0.1},
        }
    )
    (data,), (model,), (training,), (exchange,) = made.data, made.model, made.training, made.exchange
    return study.TrainScenario(
        study="t", data=data, model=model, training=training, exchange=exchange, seed=0
    ).model_dump_json()


def train(out: Path, text: str, ranks: int) -> artifacts.Artifact:
    launch = [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "mpi4py"] if ranks > 1 else [sys.executable]
    where = [] if ranks > 1 else ["--transport", "local"]
    done = subprocess.run(
        [*launch, "-m", "fedbound", "train", "--scenario", text, "--out", str(out), *where],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return artifacts.read(out, "train")


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")
def test_shakespeare_by_speaker_over_mpi_is_the_local_run(test_data, tmp_path):
    text = (test_data / "tinyshakespeare" / "input.txt").read_text()
    (tmp_path / "part.txt").write_text(text[: text.rindex("\n\n", 0, 40_000) + 1])
    choice = scenario(tmp_path / "part.txt")
    over_mpi = train(tmp_path / "mpi.h5", choice, ranks=3)
    assert artifacts.differences(train(tmp_path / "local.h5", choice, ranks=1), over_mpi) == []
    rounds, accuracy = over_mpi["rounds"], over_mpi["evaluations"].groupby("round")["test_accuracy"].mean()
    assert rounds["violations"].sum() == 0
    assert (rounds["bytes_up"] < rounds["raw_up"])[1:].all()  # compressed, all headers included
    assert accuracy.iloc[0] < 0.1 < accuracy.iloc[-1]
