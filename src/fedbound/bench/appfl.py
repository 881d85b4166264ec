"""APPFL 1.12 as the peer of `fedbound bench round`: it lives in an environment of its own, on the same work as ours.

FEDBOUND_APPFL names that environment's Python. APPFL must not be installed beside fedbound: it brings some 180
packages. In a fresh environment, with a build of torch that suits the machine:

    python3 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install torch mpi4py mpich
    ENVIRONMENT/bin/pip install appfl==1.12.0
    FEDBOUND_APPFL=ENVIRONMENT/bin/python fedbound bench round

`appfl_ranks.py` runs there. It gets model, weights, samples and each epoch's order of them from us, as one .npz.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.bench.launch import ranks
from fedbound.errors import InputError

VARIABLE = "FEDBOUND_APPFL"
AS_SHIPPED = "APPFL as shipped"
SETTINGS = {AS_SHIPPED: True, "APPFL": False}  # name -> its optimize_memory; off is the best it can do


def python() -> Path | None:
    """The interpreter of APPFL's environment; None where the variable is not set.

    Raises:
        InputError: it is set, and names no interpreter that has APPFL.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        return None
    found = Path(given).expanduser()
    if not found.is_file() or not version(found):
        raise InputError(
            f"{VARIABLE}: {given!r} is no Python that has APPFL; install it there (docs/federation.md), or unset this"
        )
    return found


def version(interpreter: Path) -> str:
    """Version of APPFL there; '' where there is none."""
    code = "import importlib.metadata as m; print(m.version('appfl'))"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False, env=_environment())
    return done.stdout.strip() if done.returncode == 0 else ""


def run(interpreter: Path, assembly: Any, optimize_memory: bool) -> dict[str, Any]:
    """Rounds of APPFL on the work of `assembly` (fedavg, sgd, an mlp, all silos in every round).

    Returns:
        `seconds` and `slowest` (its slowest silo's training) of each round; `server_cpu`, seconds a round; `checksum`.
    """
    training = assembly.training
    settings = {
        "silos": assembly.data.silos,
        "rounds": training.rounds,
        "epochs": training.local_epochs,
        "batch_size": training.batch_size,
        "widths": [int(np.prod(assembly.silos.shape)), *assembly.model["hidden"], assembly.silos.classes],
        "optimizer": {
            "lr": training.learning_rate, "momentum": training.momentum, "weight_decay": training.weight_decay
        },
        "optimize_memory": optimize_memory,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "appfl_ranks.py")
        shutil.copyfile(Path(__file__).with_name(program.name), program)
        np.savez(Path(folder, "work.npz"), allow_pickle=False, **work(assembly))
        command = [str(interpreter), "-m", "mpi4py", str(program)]
        return ranks(command, settings["silos"] + 1, settings, _environment(), folder)


def work(assembly: Any) -> dict[str, np.ndarray]:
    """Initial weights `w<n>`; of silo k its samples `x<k>`, `y<k>`, and `orders<k>`, an epoch a row."""
    from fedbound.federation.silo import round_seed
    from fedbound.models import state, training

    made = {f"w{number}": array for number, array in enumerate(state.get_state(assembly.module()))}
    size, settings = assembly.training.batch_size, assembly.training
    for number, silo in enumerate(assembly.silos.silos):
        batches = -(-len(silo.train) // size) * settings.local_epochs
        orders = []
        for round_ in range(settings.rounds):
            seed = round_seed(assembly.seed, number, round_)
            taken = itertools.islice(training._batches(len(silo.train), size, seed), batches)
            orders.append(np.concatenate(list(taken)).reshape(settings.local_epochs, -1))
        made |= {f"x{number}": silo.train.x, f"y{number}": silo.train.y, f"orders{number}": np.concatenate(orders)}
    return made


def _environment() -> dict[str, str]:
    """Ours without what would lead APPFL's interpreter to our packages."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "PYTHONNOUSERSITE": "1"}
