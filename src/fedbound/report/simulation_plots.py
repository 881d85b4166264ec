"""More plots of the simulations: when the target is reached, and what a round looks like from inside."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedbound.report import text
from fedbound.report.plots import COLOURS, LINES, MARKERS, MOST, Frames, Missing, _axes, _legend, _plain


def time_to_target(frames: Frames) -> tuple[Any, str]:
    """Simulated time to the target accuracy by clients' bandwidth or, where that is one, by clients."""
    simulations = frames["simulations"]
    if simulations.empty:
        raise Missing("Not shown: nothing was simulated (stage simulate).")
    reached = simulations[np.isfinite(simulations.target_seconds)]
    if reached.empty:
        raise Missing("Not shown: no run reached its target accuracy, or nothing was simulated (stage simulate).")
    by = "client_bandwidth" if reached.client_bandwidth.nunique() > 1 else "clients"
    keys = ["setting", "scheduler", "server_bandwidth", *({"client_bandwidth", "clients"} - {by})]
    varying = [key for key in keys if key in ("setting", "scheduler") or reached[key].nunique() > 1]
    figure, axes = _axes()
    groups = list(reached.groupby(varying, sort=False))
    for i, (names, rows) in enumerate(groups[:MOST]):
        mean = rows.groupby(by).target_seconds.mean()
        label = ", ".join(_named(key, name) for key, name in zip(varying, names, strict=True))
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i]}
        axes.plot(mean.index, mean, label=label, **style)
    what = "clients" if by == "clients" else "median client link, Mbit/s"
    axes.set(xscale="log", yscale="log", xlabel=f"{what} (log scale)", ylabel="predicted time to target, s (log scale)")
    _plain(axes.yaxis)
    _legend(axes)
    target = text.percent(float(reached.target.min()), 1)
    curves = ", ".join(sorted(set(reached.curve)))
    more = f" {MOST} of {len(groups)} series are shown; the tables have all." if len(groups) > MOST else ""
    return figure, (
        f"Target: {target} accuracy or more. Local steps per client until then are the run's (scheduler {curves}); "
        f"what another scheduler's staleness does to accuracy is not in it.{more}"
    )


def _named(key: str, value: Any) -> str:
    units = {"clients": "clients", "server_bandwidth": "Mbit/s server", "client_bandwidth": "Mbit/s"}
    return f"{value:,.0f} {units[key]}" if key in units else str(value)


def timeline(frames: Frames) -> tuple[Any, str]:
    """The last tasks of some clients of one simulation, as bars."""
    tasks, simulations = frames["simulation_timeline"], frames["simulations"]
    if tasks.empty:
        raise Missing("Not shown: nothing was simulated (stage simulate).")
    largest = simulations.sort_values("clients", kind="stable").iloc[-1]
    one = tasks[tasks.stem == largest.stem].reset_index(drop=True)
    figure, axes = _axes(height=1.6 + 0.08 * len(one))
    start = one.dispatched.min()
    parts = {"download": ("dispatched", "downloaded"), "compute, encode": ("downloaded", "computed")}
    parts["upload"] = ("computed", "arrived")
    for i, (name, (begin, end)) in enumerate(parts.items()):
        axes.barh(one.index, one[end] - one[begin], left=one[begin] - start, color=COLOURS[i], label=name, height=0.9)
    axes.set(xlabel="simulated seconds since the first dispatch", ylabel="clients, by arrival", yticks=[])
    axes.grid(visible=False, axis="y")
    _legend(axes)
    named = ", ".join(filter(None, [f"{largest.clients:,} clients", largest.setting, largest.scheduler, largest.case]))
    return figure, f"{named}: each line is one client's last task; queues and latencies are in the transfers."
