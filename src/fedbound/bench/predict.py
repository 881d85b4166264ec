"""Predicted against measured: the real server loop over MPI, with known local work and links of known speed.

Silos sleep instead of training and links are token buckets above MPI (fedbound.profiling.shaped), so that a laptop can
check predictions at several scales; all else, messages, codec, server and scheduler, is the federation's own code.

One setting is profiled: few silos, a server link that is no bottleneck. From it come the costs that nobody sets: codec
seconds and ratio per value, folding, messages, and what a silo's round takes beyond all these. Every other setting is
predicted from those costs, its sleeps and its link speeds, before it is measured: other numbers of silos, models,
codecs and links, contended and not. The first round pays for warming up and is left out of the medians.

Beside them stand runs whose silos really train, several on this machine's cores (fedbound.bench.predict_torch). They
count in no mean: other work on the machine is in them, and not in the prediction.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedbound.bench import predict_torch
from fedbound.bench.rows import Row, aligned, find
from fedbound.errors import InputError

if TYPE_CHECKING:
    from fedbound.simulation import Star, Workload

BENCH = "predict"
MEGABYTE = 1e6


@dataclass(frozen=True)
class Setting:
    """One federation.

    Attributes:
        name: what sets it apart.
        sleeps: seconds of local work of each silo.
        links: MB/s of each silo's link.
        server: MB/s of the server's link; infinite where it is no bottleneck.
        values: of the model, float32.
        codec: of both directions.
        rounds: measured, the first one aside.
    """

    name: str
    sleeps: tuple[float, ...]
    links: tuple[float, ...]
    server: float = math.inf
    values: int = 1_000_000
    codec: str = "none"
    rounds: int = 6

    @property
    def silos(self) -> int:
        return len(self.sleeps)


def _spread(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` values from low to high in equal ratios, in a mixed order."""
    values = np.geomspace(low, high, count)
    return tuple(float(values[(5 * i + 2) % count]) for i in range(count))


PROFILED = {
    "none": Setting("profiled: 3 silos", (0.6,) * 3, (16.0,) * 3),
    "ebq": Setting("profiled: 3 silos, ebq", (0.6,) * 3, (0.4,) * 3, codec="ebq"),
}
HELD_OUT = [
    Setting("6 silos, free", (0.8,) * 6, _spread(6, 16, 6)),
    Setting("6 silos, contended", (0.8,) * 6, (16.0,) * 6, server=24.0),
    Setting("11 silos, contended", (0.5,) * 11, (12.0,) * 11, server=36.0),
    Setting("11 silos, all different, contended", _spread(0.3, 1.5, 11), _spread(4, 20, 11), server=40.0),
    Setting("7 silos, twice the model, contended", _spread(0.5, 1.0, 7), (20.0,) * 7, server=50.0, values=2_000_000),
    Setting("6 silos, ebq, contended", (0.8,) * 6, _spread(0.1, 0.4, 6), server=0.5, values=1_500_000, codec="ebq"),
]
_QUICK = ("6 silos, contended",)


@dataclass(frozen=True)
class Measured:
    """What the records of a run say, first round aside: medians.

    Attributes:
        seconds: of a round.
        arrivals: (n,) seconds from a round's dispatch to each silo's update.
        costs: seconds of each part that nobody set: silos' means, the server's per update, message or version.
        bytes: of a mean message up and down, headers included, and of the update uncompressed.
    """

    seconds: float
    arrivals: np.ndarray
    costs: dict[str, float]
    bytes: dict[str, float]


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Profile, predict, measure."""
    held_out = [one for one in HELD_OUT if not quick or one.name in _QUICK]
    rows: list[Row] = []
    profiles = {}
    for codec in dict.fromkeys(one.codec for one in held_out):
        setting = PROFILED[codec]
        say(setting.name)
        profiles[codec] = (setting, measure(setting))
    for setting in held_out:
        say(setting.name)
        profiled = profiles[setting.codec]
        rows += _rows(setting, predict(setting, *profiled), predict(setting, *profiled, free=True), measure(setting))
    summary = _summary(rows)
    return [*rows, *predict_torch.run(BENCH, quick, say), *summary]


def costs_of(setting: Setting, per_value: dict[str, float], sizes: dict[str, float]) -> tuple[Workload, Star]:
    """The setting as workload and platform: sleeps and links as set, codec times and messages by the value."""
    from fedbound.simulation import Star, Workload

    values = setting.values
    workload = Workload(
        np.array(setting.sleeps),
        encode_seconds=per_value["encode"] * values,
        evaluate_seconds=0.0,
        up_bytes=sizes["up"] * values,
        down_bytes=sizes["down"] * values,
        decode_seconds=per_value["decode"] * values,
        aggregate_seconds=per_value["aggregate"] * values,
        load_seconds=per_value["load"] * values,
        downlink_seconds=per_value["downlink"] * values,
    )
    server, links = setting.server * MEGABYTE, np.array(setting.links) * MEGABYTE
    # no TCP, and equal turns: what the token buckets do
    star = Star(server, server, links, 0.0, goodput_factor=1, latency_factor=1, weight_s=None, tcp_gamma=math.inf)
    return workload, star


def predict(setting: Setting, profiled: Setting, found: Measured, free: bool = False) -> tuple[float, np.ndarray]:
    """(round seconds, arrival of each silo) of a setting, from what another one took; `free`: without contention."""
    from fedbound.federation import schedulers
    from fedbound.simulation import simulate

    per_value = {key: seconds / profiled.values for key, seconds in found.costs.items()}
    sizes = {key: size / profiled.values for key, size in found.bytes.items()}
    workload, star = costs_of(profiled, per_value, sizes)
    # What the profiled round took beyond its parts is there whatever the model's size: polling, waking, packing.
    simulated = simulate(workload, star, schedulers.get("sync", rounds=1)).rounds[0].seconds
    overhead = max(0.0, found.seconds - simulated)
    workload, star = costs_of(setting, per_value, sizes)
    workload = dataclasses.replace(workload, other_seconds=overhead)
    if free:
        star = dataclasses.replace(star, server_up=math.inf, server_down=math.inf)
    result = simulate(workload, star, schedulers.get("sync", rounds=1))
    return result.rounds[0].seconds, result.arrivals


def measure(setting: Setting) -> Measured:
    """Run the setting over MPI.

    Raises:
        InputError: there is no mpiexec.
    """
    beside = Path(sys.executable).parent
    launcher = shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec")
    if launcher is None:
        raise InputError("bench predict needs mpiexec, which is not on PATH; install the extra 'mpi'")
    command = [launcher, "-n", str(setting.silos + 1), sys.executable, "-m", "mpi4py", "-m", "fedbound.bench.predict"]
    described = json.dumps(dataclasses.asdict(setting))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, described], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{setting.name!r} failed with exit code {done.returncode}: {done.stderr[-2000:]}")
    return _read(json.loads(done.stdout.splitlines()[-1]), setting.silos)


def _read(records: dict[str, list[dict[str, float]]], silos: int) -> Measured:
    rounds = [row for row in records["rounds"] if row["round"] >= 2]
    updates = [row for row in records["silos"] if row["round"] >= 2]

    def median(rows: Sequence[dict[str, float]], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    arrivals = [median([row for row in updates if row["silo"] == k], "arrival_seconds") for k in range(silos)]
    costs = {
        "encode": median(updates, "encode_seconds"),
        "load": median(updates, "model_seconds"),
        "decode": median(updates, "decode_seconds"),
        "aggregate": median(rounds, "aggregate_seconds") / silos,
        "downlink": median(rounds, "downlink_seconds"),
    }
    sizes = {"up": median(updates, "bytes_up"), "down": median(updates, "bytes_down"), "raw": median(updates, "raw_up")}
    return Measured(median(rounds, "seconds"), np.array(arrivals), costs, sizes)


def _rank(setting: Setting) -> None:
    """One MPI rank: the server, which prints its records, or a silo."""
    from mpi4py import MPI

    from fedbound import study
    from fedbound.federation.silo import serve
    from fedbound.profiling.shaped import Shape, ShapedEndpoint, ShapedTransport
    from fedbound.profiling.sleeping import SleepingSilo, assembly

    comm = MPI.COMM_WORLD
    training = study.Training(rounds=setting.rounds + 1, evaluate_every=10**6)
    exchange = study.Exchange(codec=setting.codec, **({} if setting.codec == "none" else {"bound": 0.1}))
    parts = assembly(setting.values, setting.silos, training, exchange)
    if comm.rank:
        number = comm.rank - 1
        endpoint = ShapedEndpoint(comm)
        serve({number: SleepingSilo(number, parts, setting.sleeps[number])}, endpoint.receive, endpoint.send)
        return
    shape = Shape(setting.server * MEGABYTE, tuple(link * MEGABYTE for link in setting.links))
    server = parts.server(ShapedTransport(comm, shape))
    server.run()
    print(json.dumps({name: server.records.rows[name] for name in ("rounds", "silos")}))


def _rows(
    setting: Setting, predicted: tuple[float, np.ndarray], free: tuple[float, np.ndarray], measured: Measured
) -> list[Row]:
    def error(value: float) -> float:
        return (value - measured.seconds) / measured.seconds

    arrivals = np.abs(predicted[1] - measured.arrivals) / measured.arrivals
    figures = [
        ("measured", measured.seconds, "s"),
        ("predicted", predicted[0], "s"),
        ("error", error(predicted[0]), "1"),
        ("no_contention_error", error(free[0]), "1"),
        ("arrival_error_mean", float(arrivals.mean()), "1"),
        ("arrival_error_worst", float(arrivals.max()), "1"),
        ("ratio_up", measured.bytes["raw"] / measured.bytes["up"], "1"),
        ("rounds", setting.rounds, "1"),
    ]
    return [Row(BENCH, setting.name, "", metric, value, unit) for metric, value, unit in figures]


def _summary(rows: Sequence[Row]) -> list[Row]:
    summary = []
    for metric in ("error", "no_contention_error"):
        found = [abs(float(row.value)) for row in rows if row.metric == metric]
        summary.append(Row(BENCH, "all", "", f"mean absolute {metric}", float(np.mean(found)), "1"))
        summary.append(Row(BENCH, "all", "", f"worst absolute {metric}", max(found), "1"))
    return summary


def _cases(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.case for row in rows if row.metric == "predicted"))


def table(rows: Sequence[Row]) -> str:
    """One line for each held-out setting."""
    head = ("held-out setting", "ratio", "measured s", "predicted s", "error", "arrivals, mean", "no contention")
    lines = [
        (
            case,
            f"{find(rows, 'ratio_up', case):.1f}",
            *(f"{find(rows, key, case):.3f}" for key in ("measured", "predicted")),
            f"{100 * find(rows, 'error', case):+.1f} %",
            f"{100 * find(rows, 'arrival_error_mean', case):.1f} %",
            f"{100 * find(rows, 'no_contention_error', case):+.1f} %",
        )
        for case in _cases(rows)
    ]
    mean, worst = (100 * find(rows, f"{key} absolute error", "all") for key in ("mean", "worst"))
    said = f"mean absolute error of the controlled settings {mean:.1f} %, worst {worst:.1f} %"
    return f"{aligned(head, lines)}\n{said}\n{_blame(rows)}"


def _blame(rows: Sequence[Row]) -> str:
    """For runs that train, each part of the round as predicted and as measured, the one that is furthest off marked."""
    cases = [
        case for case in _cases(rows) if any(row.metric.startswith("measured: ") for row in rows if row.case == case)
    ]
    parts = list(dict.fromkeys(row.metric.split(": ", 1)[1] for row in rows if row.metric.startswith("measured: ")))
    lines = []
    for case in cases:
        gaps = {part: find(rows, f"predicted: {part}", case) - find(rows, f"measured: {part}", case) for part in parts}
        for part in parts:
            times = [f"{find(rows, f'{kind}: {part}', case):.4f}" for kind in ("predicted", "measured")]
            mark = "<- most of the error" if abs(gaps[part]) == max(map(abs, gaps.values())) else ""
            lines.append((case, part, *times, f"{gaps[part]:+.4f}", mark))
    return aligned(("run", "part of its round", "predicted s", "measured s", "difference", ""), lines) if lines else ""


def plot(rows: Sequence[Row], path: Path) -> None:
    """Predicted against measured, with and without contention in the model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY

    cases = _cases(rows)
    errors = [100 * find(rows, "error", case) for case in cases]
    free = [100 * find(rows, "no_contention_error", case) for case in cases]
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(cases) + 1.6), layout="constrained")
    axis.barh(range(len(cases)), free, color=COLOURS[4], height=0.3, label="without contention")
    axis.barh(np.arange(len(cases)) + 0.3, errors, color=COLOURS[0], height=0.3, label="predicted")
    axis.axvspan(-5, 5, color=GREY, alpha=0.15)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_yticks(np.arange(len(cases)) + 0.15, cases)
    axis.invert_yaxis()
    axis.set_xlabel("error of the predicted round time, % (grey: within 5 %)")
    axis.set_title("Does the prediction hold in settings that were not profiled?")
    axis.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    _rank(Setting(**json.loads(sys.argv[1])))
