"""When one silo is slow: how long strategies take for the same number of updates, and what they reach, over MPI.

Four silos on digits, one of which takes five times as long (it sleeps four times as long as it trained). Every strategy
runs until as many updates as the synchronous one makes in its rounds have been folded. Runs alternate; medians.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.bench.launch import under_mpi
from fedbound.bench.rows import Row, aligned, find

BENCH = "async"
PEER = "sync, fedavg"
SILOS, SLOW, LEAST_SECONDS = 4, 5.0, 0.1
STRATEGIES: dict[str, dict[str, Any]] = {
    PEER: {"algorithm": "fedavg", "scheduler": {"name": "sync"}, "share": 1 / SILOS},
    "async, fedasync": {"algorithm": "fedasync", "scheduler": {"name": "async"}, "share": 1.0},
    "buffered, fedbuff": {"algorithm": "fedbuff", "scheduler": {"name": "buffered", "buffer": 2}, "share": 0.5},
    "compass, fedcompass": {
        "algorithm": "fedcompass",
        "scheduler": {"name": "compass", "q_min": 4, "q_max": 20},
        "share": 1.0,
    },
}


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure every strategy, alternately."""
    updates = SILOS * (4 if quick else 15)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in STRATEGIES}
    for turn in range(1 if quick else 3):
        for name in STRATEGIES:
            settings = {"strategy": name, "updates": updates, "seed": turn}
            found[name].append(under_mpi("fedbound.bench.asynchronous", SILOS + 1, settings))
            say(f"{name}: {found[name][-1]['seconds']:.2f} s, accuracy {100 * found[name][-1]['accuracy']:.1f} %")
    rows = []
    for name, runs in found.items():
        for key, unit in (("seconds", "s"), ("accuracy", "1"), ("staleness", "1"), ("steps", "1")):
            rows.append(Row(BENCH, name, "", key, statistics.median(one[key] for one in runs), unit))
        if name != PEER:
            speeds = [base["seconds"] / one["seconds"] for base, one in zip(found[PEER], runs, strict=True)]
            rows.append(Row(BENCH, name, PEER, "speed", statistics.median(speeds), "1"))
            rows.append(Row(BENCH, name, PEER, "speed_low", min(speeds), "1"))
    return rows


def table(rows: Sequence[Row]) -> str:
    """One line per strategy."""
    lines = []
    for name in STRATEGIES:
        speed = find(rows, "speed", name, PEER)
        lines.append(
            (
                name,
                f"{find(rows, 'seconds', name):.2f}",
                f"{speed:.2f} (least {find(rows, 'speed_low', name, PEER):.2f})" if speed == speed else "",
                f"{100 * find(rows, 'accuracy', name):.1f}",
                f"{find(rows, 'staleness', name):.2f}",
                f"{find(rows, 'steps', name):.0f}",
            )
        )
    head = ("strategy", "seconds", f"speed / {PEER}", "accuracy %", "mean staleness", "local steps")
    return f"equal updates, one of {SILOS} silos {SLOW:g} times slower, medians\n" + aligned(head, lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time of each strategy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS

    figure, axis = plt.subplots(figsize=(8, 2.8), layout="constrained")
    axis.barh(list(STRATEGIES), [find(rows, "seconds", name) for name in STRATEGIES], color=COLOURS[0])
    axis.set_xlabel("seconds for the same number of updates")
    axis.invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)


# ---- the ranks --------------------------------------------------------------------------------------------------


def _rank(settings: dict[str, Any]) -> None:
    from mpi4py import MPI

    from fedbound import study
    from fedbound.federation.assembly import Assembly
    from fedbound.federation.silo import serve
    from fedbound.federation.transports.mpi import MpiEndpoint, MpiTransport
    from fedbound.registry import MODELS

    comm, strategy = MPI.COMM_WORLD, STRATEGIES[settings["strategy"]]
    rounds = round(settings["updates"] * strategy["share"])
    training = study.Training(
        rounds=rounds, algorithm=strategy["algorithm"], scheduler=strategy["scheduler"], evaluate_every=10**6
    )
    data = study.Data.model_validate({"silos": SILOS, "partition": "iid"})
    exchange = study.Exchange(codec="ebq", bound=0.1)
    model = MODELS.normalise({"name": "mlp", "hidden": [64]})
    assembly = Assembly(data, model, training, exchange, settings["seed"])
    if comm.rank:
        silo = assembly.silo(comm.rank - 1)
        _pace(silo, SLOW if comm.rank == SILOS else 1.0)
        comm.Barrier()
        endpoint = MpiEndpoint(comm)
        serve({comm.rank - 1: silo}, endpoint.receive, endpoint.send)
        return
    server = assembly.server(MpiTransport(comm, SILOS))
    comm.Barrier()
    server.run()
    print(json.dumps(_figures(server.records.rows, settings["updates"])), flush=True)


def _pace(silo: Any, times: float) -> None:
    """Let the silo take `times` a fixed time per local step, sleeping for what training leaves of it."""
    learn = silo._learn

    def paced(*args: Any) -> Any:
        started = time.perf_counter()
        result, local = learn(*args)
        wanted = times * LEAST_SECONDS * result.steps / 20
        time.sleep(max(0.0, wanted - (time.perf_counter() - started)))
        return result, local

    silo._learn = paced


def _figures(rows: dict[str, list[dict[str, Any]]], updates: int) -> dict[str, float]:
    """Seconds until that many updates were folded; a strategy that groups them may pass it by a few."""
    counts = np.bincount([row["round"] for row in rows["silos"]], minlength=len(rows["rounds"]) + 1)[1:]
    seconds = np.cumsum([row["seconds"] for row in rows["rounds"]])
    at = min(int(np.searchsorted(np.cumsum(counts), updates)), len(seconds) - 1)
    last = max(row["round"] for row in rows["evaluations"])
    final = [row for row in rows["evaluations"] if row["round"] == last]
    weights = [row["test_samples"] for row in final]
    return {
        "seconds": float(seconds[at]),
        "accuracy": float(np.average([row["test_accuracy"] for row in final], weights=weights)),
        "staleness": float(np.mean([row["staleness"] for row in rows["silos"]])),
        "steps": float(sum(row["steps"] for row in rows["silos"])),
    }


if __name__ == "__main__":
    _rank(json.loads(sys.argv[1]))
