"""How fast the simulator is, how much memory it takes, and how far it is from SimGrid.

The workload is heterogeneous (lognormal training times and bandwidths), since equal clients are an easy case: training
30 s and client links of 100 Mb/s at the median, sigma 0.5 each; a model of 38,123,587 bytes each way; 10 ms latency;
a server link of 10 Gb/s that all share, or one that is no bottleneck; 0.1 ms to fold an update. One synchronous round,
or as many updates as clients. Each case runs in a process of its own, which tells its peak memory; processor time is
that of the simulation, the drawing of the population and the loading of the compiled engine aside.

SimGrid runs the same scheduler by the same driver, on ever more clients until a case takes more than 60 s. Its figures
hold the pipe to its process, as a user would see them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedbound.bench.rows import Row, aligned, find

BENCH = "simulate"
SCALES = [100, 1000, 10_000, 100_000, 1_000_000]
STRATEGIES = ("sync", "async", "buffered", "compass")
LINKS = {"shared": 1.25e9, "free": math.inf}  # bytes/s of the server's link, each way
MODEL_BYTES = 38_123_587
PATIENCE = 60.0  # seconds that SimGrid gets for a case
PEER = "simgrid"


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure every strategy on every link and scale."""
    scales = SCALES[:3] if quick else SCALES
    patience = PATIENCE / 6 if quick else PATIENCE
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for link in LINKS:
            for strategy in STRATEGIES:
                reference = _has_simgrid()
                for clients in scales:
                    case = label(strategy, link, clients)
                    say(case)
                    figures, times = _measure(Path(folder), clients, strategy, link, "fluid", None)
                    rows += _rows(case, "", figures)
                    if not reference:
                        continue
                    reference = False
                    found = _measure(Path(folder), clients, strategy, link, PEER, patience)
                    if found is not None:
                        rows += [*_rows(case, PEER, found[0]), *_compared(case, figures, times, *found)]
                        reference = found[0]["wall"] < patience
    return [*rows, *_summary(rows)]


def label(strategy: str, link: str, clients: int) -> str:
    return f"{strategy}, {link} link, {clients} clients"


def _has_simgrid() -> bool:
    import importlib.util

    return importlib.util.find_spec("simgrid") is not None


def _measure(folder: Path, clients: int, strategy: str, link: str, engine: str, patience: float | None) -> Any:
    """(figures, simulated times) of one case in a process of its own; None where it takes too long."""
    out = folder / "times.npy"
    setting = {"clients": clients, "strategy": strategy, "link": link, "engine": engine, "out": str(out)}
    command = [sys.executable, "-m", "fedbound.bench.simulate", json.dumps(setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        printed, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # SimGrid's process is a child of the child
        process.communicate()
        return None
    if process.returncode:
        raise RuntimeError(f"the case {setting} failed with exit code {process.returncode}")
    return json.loads(printed.splitlines()[-1]), np.load(out)


def _case(setting: dict[str, Any]) -> None:
    """The child process: simulate, print the figures, save the times."""
    import resource
    import time

    from fedbound.federation import schedulers
    from fedbound.simulation import Star, Workload, simulate

    count = setting["clients"]
    draw = np.random.default_rng(1)
    train = 30 * draw.lognormal(0, 0.5, count)
    bandwidth = 12.5e6 * draw.lognormal(0, 0.5, count)
    capacity = LINKS[setting["link"]]
    workload = Workload(train, 0, 0, MODEL_BYTES, MODEL_BYTES, aggregate_seconds=1e-4, steps=100)
    star = Star(capacity, capacity, bandwidth, 0.01)
    rounds, options = {
        "sync": (1, {}),
        "async": (count, {}),
        "buffered": (10, {"buffer": count // 10}),
        "compass": (count, {}),
    }[setting["strategy"]]
    scheduler = schedulers.get(setting["strategy"], rounds=rounds, **options)
    load = _load(count) if setting["engine"] == "fluid" else 0.0
    wall, cpu = time.perf_counter(), _processor_seconds()
    result = simulate(workload, star, scheduler, setting["engine"])
    wall = time.perf_counter() - wall
    cpu = _processor_seconds() - cpu
    memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    np.save(setting["out"], np.concatenate([result.rounds.column("end"), result.arrivals[~np.isnan(result.arrivals)]]))
    figures = {
        "wall": wall,
        "cpu": cpu,
        "memory": memory * 1024,  # Linux reports KiB
        "events": result.events,
        "updates": int(result.rounds.column("clients").sum()),
        "simulated": result.seconds,
        "load": load,
    }
    print(json.dumps(figures))


def _load(count: int) -> float:
    """Load the compiled engine, and compile it where that has not been done: processor seconds, once a process."""
    from fedbound.federation import schedulers
    from fedbound.simulation import Star, Workload, simulate
    from fedbound.simulation.engines import fluid

    before = _processor_seconds()
    star = Star(1e9, 1e9, np.ones(2), 0.0)
    maker = type(fluid.make(Star(1e9, 1e9, np.ones(count), 0.0)))
    simulate(Workload(np.ones(2), 0, 0, 1, 1), star, schedulers.get("sync", rounds=1), maker)
    return _processor_seconds() - before


def _processor_seconds() -> float:
    """Of this process, and of its children that have ended."""
    import time

    return time.process_time() + sum(os.times()[2:4])


def _rows(case: str, peer: str, figures: dict[str, float]) -> list[Row]:
    units = {"wall": "s", "cpu": "s", "memory": "byte", "events": "1", "updates": "1", "simulated": "s", "load": "s"}
    found = [Row(BENCH, case, peer, key, figures[key], unit) for key, unit in units.items()]
    return [*found, Row(BENCH, case, peer, "event_rate", figures["events"] / figures["cpu"], "1/s")]


def _compared(
    case: str, ours: dict[str, float], our_times: np.ndarray, theirs: dict[str, float], their_times: np.ndarray
) -> list[Row]:
    """How much faster, and the largest difference of any simulated time."""
    same = our_times.shape == their_times.shape
    gap = np.abs(our_times - their_times) if same else np.array([math.inf])
    relative = (gap / np.maximum(np.abs(their_times), 1e-300)).max() if same else math.inf
    speedup = theirs["wall"] / ours["wall"] if ours["wall"] else math.nan
    return [
        Row(BENCH, case, PEER, "times_compared", len(their_times), "1"),
        Row(BENCH, case, PEER, "largest_difference", float(gap.max()), "s"),
        Row(BENCH, case, PEER, "largest_relative_difference", float(relative), "1"),
        Row(BENCH, case, PEER, "speedup", speedup, "1"),
    ]


def _summary(rows: Sequence[Row]) -> list[Row]:
    """The largest relative difference of all, and how the cost of an event grows from the least scale to the most."""
    found = [float(row.value) for row in rows if row.metric == "largest_relative_difference"]
    summary = [Row(BENCH, "all", PEER, "largest_relative_difference", max(found), "1")] if found else []
    for link in LINKS:
        for strategy in STRATEGIES:
            low, high = _compiled_from(_scales(rows)), max(_scales(rows))
            if high <= low:
                continue
            costs = [1 / find(rows, "event_rate", label(strategy, link, clients)) for clients in (low, high)]
            case = f"{strategy}, {link} link"
            summary.append(Row(BENCH, case, "", "event_cost_growth", costs[1] / costs[0], "1"))
            summary.append(Row(BENCH, case, "", "log_growth", math.log(high) / math.log(low), "1"))
    return summary


def _compiled_from(scales: Sequence[int]) -> int:
    """The scale from which growth is told: one engine runs from there on, and what is done once hardly counts."""
    return 10_000 if max(scales) > 10_000 else 1000


def _scales(rows: Sequence[Row]) -> list[int]:
    return sorted({_clients(row.case) for row in rows if row.metric == "wall"})


def _clients(case: str) -> int:
    """The number of clients in a `label`."""
    return int(case.split(", ")[2].split()[0])


def table(rows: Sequence[Row]) -> str:
    """One line for each case, SimGrid's figures to the right."""
    head = (
        "case",
        "wall s",
        "cpu s",
        "MB",
        "1000 events/s",
        "us/event",
        "us/log2 N",
        "simulated s",
        "SimGrid s",
        "MB",
        "faster x",
        "difference",
    )
    lines = []
    for case in dict.fromkeys(row.case for row in rows if row.metric == "wall"):
        theirs = find(rows, "wall", case, PEER)
        compared = (
            (
                f"{theirs:.2f}",
                f"{find(rows, 'memory', case, PEER) / 1e6:.0f}",
                f"{find(rows, 'speedup', case, PEER):.0f}",
                f"{find(rows, 'largest_relative_difference', case, PEER):.0e}",
            )
            if not math.isnan(theirs)
            else ("", "", "", "")
        )
        lines.append(
            (
                case,
                *(f"{find(rows, key, case):.2f}" for key in ("wall", "cpu")),
                f"{find(rows, 'memory', case) / 1e6:.0f}",
                f"{find(rows, 'event_rate', case) / 1e3:.0f}",
                f"{1e6 / find(rows, 'event_rate', case):.1f}",
                f"{1e6 / find(rows, 'event_rate', case) / math.log2(_clients(case)):.2f}",
                f"{find(rows, 'simulated', case):.1f}",
                *compared,
            )
        )
    found = find(rows, "largest_relative_difference", "all", PEER)
    said = "SimGrid is not installed" if math.isnan(found) else f"largest relative difference to SimGrid: {found:.1e}"
    return f"{aligned(head, lines)}\n{said}\n"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time and cost per event against the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY, MARKERS

    figure, (times, costs) = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    scales = np.array(_scales(rows))
    for index, strategy in enumerate(STRATEGIES):
        style = {"marker": MARKERS[index], "color": COLOURS[index]}
        for link, line in (("shared", "-"), ("free", ":")):
            cases = [label(strategy, link, clients) for clients in scales]
            wall = [find(rows, "wall", case) for case in cases]
            times.plot(scales, wall, linestyle=line, label=f"{strategy}, {link} link", **style)
            peer = [find(rows, "wall", case, PEER) for case in cases]
            times.plot(scales, peer, linestyle="--", alpha=0.4, **style)
            cost = [1e6 / find(rows, "event_rate", case) for case in cases]
            costs.plot(scales, cost, linestyle=line, **style)
    least = _compiled_from(scales.tolist())
    base = np.nanmedian([1e6 / find(rows, "event_rate", label(s, "shared", least)) for s in STRATEGIES])
    grown = scales[scales >= least]
    costs.plot(grown, base * np.log(grown) / np.log(least), color=GREY, linewidth=0.8, label=f"log N, from {least:,}")
    times.set_yscale("log")
    times.set_ylabel("wall seconds (pale, dashed: SimGrid)")
    costs.set_ylabel("microseconds per event")
    costs.set_ylim(bottom=0)
    for axis in (times, costs):
        axis.set_xscale("log")
        axis.set_xlabel("clients")
        axis.legend(fontsize=8)
    times.set_title("How long does a simulation take?")
    costs.set_title("How does the cost of an event grow?")
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    _case(json.loads(sys.argv[1]))
