"""What a round costs beside its training: ours against a minimal FedAvg in mpi4py, on the same work.

The minimal loop is what one would write by hand: Bcast of a flat float32 vector, local training by the very same
function, Reduce of the weighted models. Both train digits with the same model, samples, order and steps; the exchange
is uncompressed, nothing is evaluated or saved. Runs alternate; figures are medians over runs of the median round, the
first one of each run left out. A waiting rank of the minimal loop spins, ours polls with a growing pause, so that on a
machine with fewer cores than ranks the minimal loop takes time from the silos that train: the server's processor time
is told.
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

from fedbound.bench.launch import under_mpi
from fedbound.bench.rows import Row, aligned, find

BENCH = "round"
PEER = "minimal mpi4py"
OURS = "fedbound"
CASES = {  # hidden units, local epochs
    "small round": ([64], 1),
    "large model, short round": ([1024, 1024], 1),
    "half a second of work and more": ([1024, 1024], 6),
}


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure every case with both loops, alternately."""
    rows: list[Row] = []
    cases = dict(list(CASES.items())[:1]) if quick else CASES
    for case, (hidden, epochs) in cases.items():
        found: dict[str, list[dict[str, float]]] = {OURS: [], PEER: []}
        for turn in range(2 if quick else 5):
            for loop in found if turn % 2 else reversed(found):
                settings = {"loop": loop, "hidden": hidden, "epochs": epochs, "rounds": 4 if quick else 8, "silos": 2}
                found[loop].append(under_mpi("fedbound.bench.round", 3, settings))
        rows += _rows(case, found)
        ours, plain = (find(rows, "round_seconds", f"{case}: {loop}") for loop in (OURS, PEER))
        say(f"{case}: {1e3 * ours:.1f} ms a round, {PEER} {1e3 * plain:.1f} ms")
    return rows


def _rows(case: str, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    rows = []
    for loop, runs in found.items():
        for key, unit in (("round_seconds", "s"), ("train_seconds", "s"), ("overhead", "s"), ("server_cpu", "s")):
            rows.append(Row(BENCH, f"{case}: {loop}", "", key, statistics.median(one[key] for one in runs), unit))
        rows.append(Row(BENCH, f"{case}: {loop}", "", "accuracy_checksum", runs[0]["checksum"], "1"))
    quotients = [a["round_seconds"] / b["round_seconds"] for a, b in zip(found[OURS], found[PEER], strict=True)]
    for metric, value in (
        ("round", statistics.median(quotients)),
        ("round_low", min(quotients)),
        ("round_high", max(quotients)),
    ):
        rows.append(Row(BENCH, f"{case}: {OURS}", PEER, metric, value, "1"))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Both loops, case by case."""
    cases = list(dict.fromkeys(row.case for row in rows if row.metric == "round_seconds"))
    lines = []
    for case in cases:
        figures = [1e3 * find(rows, key, case) for key in ("round_seconds", "train_seconds", "overhead", "server_cpu")]
        quotient = find(rows, "round", case, PEER)
        spread = f"{find(rows, 'round_low', case, PEER):.2f} to {find(rows, 'round_high', case, PEER):.2f}"
        said = f"{quotient:.2f} ({spread})" if quotient == quotient else ""
        lines.append((case, *(f"{figure:.1f}" for figure in figures), said))
    head = ("case", "round ms", "slowest silo ms", "overhead ms", "server CPU ms", f"/ {PEER}")
    return "two silos and a server, medians\n" + aligned(head, lines)


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
        rounds=settings["rounds"], local_epochs=settings["epochs"], evaluate_every=10**6, learning_rate=0.01
    )
    data = study.Data.model_validate({"silos": settings["silos"], "partition": "iid"})
    model = MODELS.normalise({"name": "mlp", "hidden": settings["hidden"]})
    return Assembly(data, model, training, study.Exchange(codec="none"), 0)


def _ours(settings: dict[str, Any], comm: Any) -> dict[str, float] | None:
    from fedbound.federation.silo import serve
    from fedbound.federation.transports.mpi import MpiEndpoint, MpiTransport

    assembly = _assembly(settings)
    if comm.rank:
        silo = assembly.silo(comm.rank - 1)
        comm.Barrier()
        endpoint = MpiEndpoint(comm)
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
    return _figures(seconds, slowest, used, model.vector)


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
    return _figures(seconds[1:], slowest[1:], used, model) if comm.rank == 0 else None


def _figures(seconds: list[float], slowest: list[float], used: float, model: Any) -> dict[str, float]:
    return {
        "round_seconds": statistics.median(seconds),
        "train_seconds": statistics.median(slowest),
        "overhead": statistics.median(a - b for a, b in zip(seconds, slowest, strict=True)),
        "server_cpu": used,
        "checksum": float(abs(model).sum()),
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _main() -> None:
    from mpi4py import MPI

    settings = json.loads(sys.argv[1])
    found = (_ours if settings["loop"] == OURS else _plain)(settings, MPI.COMM_WORLD)
    if found is not None:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _main()
