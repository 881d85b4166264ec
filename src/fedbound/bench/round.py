"""What a round costs beside its training: ours against a minimal FedAvg in mpi4py, on the same work.

Ours runs twice: with updates in messages, and with `training.reduce`, where ranks add them up. The minimal loop is what
one would write by hand: Bcast of a flat float32 vector, local training by the very same function, Reduce of the
weighted models. All train digits with the same model, samples, order and steps; the exchange
is uncompressed, nothing is evaluated or saved. Runs alternate; figures are medians over runs of the median round, the
first one of each run left out. A waiting rank of the minimal loop spins, ours polls with a growing pause, so that on a
machine with fewer cores than ranks the minimal loop takes time from the silos that train: the server's processor time
is told.

APPFL runs along where FEDBOUND_APPFL names a Python that has it (`appfl.py`), with its switches `optimize_memory` off,
which is its best setting, and once as it ships. It trains in its own way: torch's DataLoader, sample by sample.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedbound.bench import appfl
from fedbound.bench.launch import under_mpi
from fedbound.bench.rows import Row, aligned, find

BENCH = "round"
PEER = "minimal mpi4py"
OURS = "fedbound"
REDUCED = "fedbound, reduce"
CASES = {  # hidden units, local epochs
    "small round": ([64], 1),
    "large model, short round": ([1024, 1024], 1),
    "half a second of work and more": ([1024, 1024], 8),
}

IDLE_SILOS = (1, 2, 4)


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure every case with all loops, alternately."""
    interpreter = appfl.python()
    said = appfl.version(interpreter) if interpreter else f"not measured: {appfl.VARIABLE} is not set"
    rows = [Row(BENCH, "machine", "", "appfl", said, "version")]
    say(f"APPFL: {said}")
    cases = dict(list(CASES.items())[:1]) if quick else CASES
    for case, (hidden, epochs) in cases.items():
        settings = {"hidden": hidden, "epochs": epochs, "rounds": 4 if quick else 8, "silos": 2}
        found = measured(settings, 2 if quick else 5, interpreter)
        rows += _rows(case, found)
        said = ", ".join(f"{loop} {1e3 * find(rows, 'round_seconds', f'{case}: {loop}'):.1f}" for loop in found)
        say(f"{case}, ms a round: {said}")
    return rows + _idle_rows(quick, say)


def _idle_rows(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Rounds of 1.1 million values in which nobody trains: our messages beside the minimal loop's collectives."""
    rows = []
    for silos in IDLE_SILOS[:1] if quick else IDLE_SILOS:
        settings = {"hidden": [1024, 1024], "epochs": 1, "rounds": 4 if quick else 20, "silos": silos, "idle": True}
        found = measured(settings, 1 if quick else 3, None)
        for loop, runs in found.items():
            seconds = statistics.median(one["round_seconds"] for one in runs)
            rows.append(Row(BENCH, f"{loop}, {silos} silos", "", "idle_round_seconds", seconds, "s"))
            say(f"nobody trains, {silos} silos, {loop}: {1e3 * seconds:.1f} ms a round")
    return rows


def measured(settings: dict[str, Any], turns: int, interpreter: Path | None) -> dict[str, list[dict[str, float]]]:
    """Figures of so many runs of every loop, in turn and back; APPFL as it ships once only, with fewer rounds."""
    loops = [OURS, REDUCED, PEER, *(appfl.SETTINGS if interpreter else ())]
    found: dict[str, list[dict[str, float]]] = {loop: [] for loop in loops}
    for turn in range(turns):
        for loop in loops if turn % 2 else reversed(loops):
            if loop not in appfl.SETTINGS:
                told = {"loop": loop, **settings}
                found[loop].append(under_mpi("fedbound.bench.round", settings["silos"] + 1, told))
            elif turn == 0 or loop != appfl.AS_SHIPPED:
                found[loop].append(_appfl(interpreter, loop, settings))
    return found


def _appfl(interpreter: Any, loop: str, settings: dict[str, Any]) -> dict[str, float]:
    rounds = min(4, settings["rounds"]) if loop == appfl.AS_SHIPPED else settings["rounds"]
    told = appfl.run(interpreter, _assembly({**settings, "rounds": rounds}), appfl.SETTINGS[loop])
    return _figures(told["seconds"][1:], told["slowest"][1:], told["server_cpu"], told["checksum"])


def _rows(case: str, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    rows = []
    for loop, runs in found.items():
        for key, unit in (("round_seconds", "s"), ("train_seconds", "s"), ("overhead", "s"), ("server_cpu", "s")):
            rows.append(Row(BENCH, f"{case}: {loop}", "", key, statistics.median(one[key] for one in runs), unit))
        rows.append(Row(BENCH, f"{case}: {loop}", "", "checksum", runs[0]["checksum"], "1"))
        if loop == OURS:
            continue
        pairs = zip(found[OURS], runs, strict=loop != appfl.AS_SHIPPED)  # that one runs once
        quotients = [a["round_seconds"] / b["round_seconds"] for a, b in pairs]
        for metric, value in (
            ("round", statistics.median(quotients)),
            ("round_low", min(quotients)),
            ("round_high", max(quotients)),
        ):
            rows.append(Row(BENCH, f"{case}: {OURS}", loop, metric, value, "1"))
    return rows


def table(rows: Sequence[Row]) -> str:
    """All loops, case by case."""
    lines = []
    for case in dict.fromkeys(row.case for row in rows if row.metric == "round_seconds"):
        figures = [1e3 * find(rows, key, case) for key in ("round_seconds", "train_seconds", "overhead", "server_cpu")]
        name, loop = case.rsplit(": ", 1)
        ours = f"{name}: {OURS}"
        quotient = find(rows, "round", ours, loop)
        spread = f"{find(rows, 'round_low', ours, loop):.2f} to {find(rows, 'round_high', ours, loop):.2f}"
        said = f"{quotient:.3f} ({spread})" if quotient == quotient else ""
        lines.append((case, *(f"{figure:.1f}" for figure in figures), said))
    head = ("case", "round ms", "slowest silo ms", "overhead ms", "server CPU ms", "ours / it")
    idle = [(row.case, f"{1e3 * float(row.value):.1f}") for row in rows if row.metric == "idle_round_seconds"]
    tables = (aligned(head, lines), aligned(("1.1 million values, nobody trains", "round ms"), idle))
    return "two silos and a server, medians\n" + "\n\n".join(tables)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Training and overhead of both loops."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS

    cases = list(dict.fromkeys(row.case for row in rows if row.metric == "round_seconds"))
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(cases) + 1.6), layout="constrained")
    train = [1e3 * find(rows, "train_seconds", case) for case in cases]
    overhead = [1e3 * find(rows, "overhead", case) for case in cases]
    axis.barh(cases, train, color=COLOURS[0], label="slowest silo's training")
    axis.barh(cases, overhead, left=train, color=COLOURS[1], label="everything else")
    axis.set_xlabel("ms per round")
    axis.invert_yaxis()
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


# ---- the ranks --------------------------------------------------------------------------------------------------


def _assembly(settings: dict[str, Any]) -> Any:
    from fedbound import study
    from fedbound.federation.assembly import Assembly
    from fedbound.registry import MODELS

    training = study.Training(
        rounds=settings["rounds"],
        local_epochs=settings["epochs"],
        evaluate_every=10**6,
        learning_rate=0.01,
        reduce=settings.get("loop") == REDUCED,
    )
    data = study.Data.model_validate({"silos": settings["silos"], "partition": "iid"})
    model = MODELS.normalise({"name": "mlp", "hidden": settings["hidden"]})
    return Assembly(data, model, training, study.Exchange(codec="none"), 0)


def _no_training(*arguments: Any) -> Any:
    from fedbound.models.training import LocalResult

    return LocalResult(1, 0.0)


def _ours(settings: dict[str, Any], comm: Any) -> dict[str, float] | None:
    from fedbound.federation.silo import serve
    from fedbound.federation.transports.mpi import MpiEndpoint, MpiTransport

    assembly = _assembly(settings)
    if comm.rank:
        silo = assembly.silo(comm.rank - 1)
        comm.Barrier()
        endpoint = MpiEndpoint(comm, {comm.rank - 1: silo})
        serve({comm.rank - 1: silo}, endpoint.receive, endpoint.send)
        return None
    server = assembly.server(MpiTransport(comm, settings["silos"]))
    comm.Barrier()
    cpu = _cpu()
    model = server.run()
    used = (_cpu() - cpu) / settings["rounds"]
    rows = server.records.rows
    slowest = [
        max(row["train_seconds"] for row in rows["silos"] if row["round"] == n)
        for n in range(2, settings["rounds"] + 1)
    ]
    seconds = [row["seconds"] for row in rows["rounds"]][1:]
    return _figures(seconds, slowest, used, float(abs(model.vector).sum()))


def _plain(settings: dict[str, Any], comm: Any) -> dict[str, float] | None:
    """The minimal loop."""
    import numpy as np
    from mpi4py import MPI

    from fedbound.exchange.layout import State
    from fedbound.federation.silo import round_seed
    from fedbound.models import state, training

    assembly = _assembly(settings)
    layout, module, model = assembly.layout, assembly.module(), assembly.initial_state().vector
    split = assembly.silos.silos[comm.rank - 1].train if comm.rank else None
    count = np.array([len(split) if split else 0], np.float64)
    total = comm.allreduce(float(count[0]))
    summed = np.empty(layout.size, np.float32)
    comm.Barrier()
    cpu, seconds, slowest = _cpu(), [], []
    for round_ in range(settings["rounds"]):
        started = time.perf_counter()
        comm.Bcast(model, root=0)
        spent = np.zeros(1)
        part = np.zeros(layout.size, np.float32)
        if split is not None:
            began = time.perf_counter()
            state.set_state(module, layout.unflatten(State(model, [])))
            training.train(module, split, assembly.training, round_seed(0, comm.rank - 1, round_))
            part = layout.flatten(state.get_state(module)).vector * np.float32(count[0] / total)
            spent[0] = time.perf_counter() - began
        comm.Reduce(part, summed, op=MPI.SUM, root=0)
        if comm.rank == 0:
            model = summed.copy()
        longest = np.zeros(1)
        seconds.append(time.perf_counter() - started)
        comm.Reduce(spent, longest, op=MPI.MAX, root=0)
        slowest.append(float(longest[0]))
    used = (_cpu() - cpu) / settings["rounds"]
    if comm.rank:
        return None
    return _figures(seconds[1:], slowest[1:], used, float(abs(model).sum()))


def _figures(seconds: list[float], slowest: list[float], used: float, checksum: float) -> dict[str, float]:
    return {
        "round_seconds": statistics.median(seconds),
        "train_seconds": statistics.median(slowest),
        "overhead": statistics.median(a - b for a, b in zip(seconds, slowest, strict=True)),
        "server_cpu": used,
        "checksum": checksum,
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _main() -> None:
    from mpi4py import MPI

    settings = json.loads(sys.argv[1])
    if settings.get("idle"):
        from fedbound.models import training

        training.train = _no_training  # type: ignore[assignment]
    found = (_plain if settings["loop"] == PEER else _ours)(settings, MPI.COMM_WORLD)
    if found is not None:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _main()
