"""Plots of the simulations: time at scale and to the target, where it goes, and a round from inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.report import text
from fedbound.report.collect import PARTS
from fedbound.report.plots import COLOURS, MOST, Frames, Missing, _axes, _legend, _need, _plain, _style, _ticks

if TYPE_CHECKING:
    import pandas as pd


_SIMULATE = "Not shown: nothing was simulated (stage simulate)."
_BARS = 12


def simulated_times(frames: Frames) -> tuple[Any, str]:
    """Simulated time of a round's work by clients; where there are too many networks, in the middle one."""
    simulations = _need(frames["simulations"], _SIMULATE)
    simulations = _need(simulations[np.isfinite(simulations.epoch_seconds)], "Not shown: no simulation did any work.")
    lines = ["setting", "scheduler", "case"]
    shown, more = _middle(simulations, simulations.groupby(lines).ngroups > MOST)
    groups = list(shown.groupby(lines, sort=False))
    several, cases = shown.scheduler.nunique() > 1, shown.case.nunique() > 1
    figure, axes = _axes()
    for i, ((setting, scheduler, case), rows) in enumerate(groups[:MOST]):
        mean = rows.groupby("clients").epoch_seconds.mean()
        label = ", ".join(filter(None, [setting, scheduler if several else "", case if cases else ""]))
        axes.plot(mean.index, mean, label=label, **_style(i))
    axes.set(xscale="log", yscale="log", xlabel="clients (log scale)", ylabel="predicted round, s (log scale)")
    _ticks(axes.xaxis, sorted(set(shown.clients)))
    _plain(axes.yaxis)
    _legend(axes)
    return figure, (
        "All clients share the server's link; costs are those of the profile. A round is the time for as much local "
        f"work as a round of all clients is, whatever the scheduler.{more}{_some(len(groups))}"
    )


def where_time_goes(frames: Frames) -> tuple[Any, str]:
    """Shares of a mean client's round; of too many simulations those of the middle network, then of most clients."""
    simulations = _need(frames["simulations"], _SIMULATE)
    rows, more = _middle(simulations, len(simulations) > _BARS)
    if len(rows) > _BARS and rows.clients.nunique() > 1:
        most = rows.clients.max()
        rows, more = rows[rows.clients == most], f"{more} With {most:,} clients: the tables have the others."
    if len(rows) > _BARS:
        more += f" {_BARS} of {len(rows)} bars are shown."
    rows = rows.sort_values(["clients", "setting"], kind="stable", ascending=[False, False]).tail(_BARS)
    parts = rows[[f"{part}_seconds" for part in PARTS]].to_numpy()
    waiting = np.clip(rows.round_seconds.to_numpy() - parts.sum(axis=1), 0, None)
    parts = np.column_stack([parts, waiting])
    totals = parts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(parts, totals, out=np.zeros_like(parts), where=totals > 0)
    figure, axes = _axes(height=1.6 + 0.42 * len(rows))
    left = np.zeros(len(rows))
    names = [*("codec (encode)" if part == "codec" else part for part in PARTS), "waiting for the slowest"]
    fills = zip(names, (*COLOURS[:5], "#d9d9d9"), ("", "//", "..", "\\\\", "xx", ""), strict=True)
    for j, (name, colour, hatch) in enumerate(fills):
        axes.barh(range(len(rows)), shares[:, j], left=left, color=colour, hatch=hatch, edgecolor="white", label=name)
        left += shares[:, j]
    for i, took in enumerate(rows.round_seconds):
        axes.text(101, i, text.seconds(took), va="center", fontsize=10)
    several = simulations.scheduler.nunique() > 1
    axes.set_yticks(
        range(len(rows)),
        [
            ", ".join(filter(None, [f"{row.clients:,} clients", row.setting, several and row.scheduler, row.case]))
            for row in rows.itertuples()
        ],
    )
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="share of a mean client's round, %", xlim=(0, 112), xticks=range(0, 101, 20))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure, (
        "Beside each bar the predicted time from a dispatch to the new model that it went into. Server: decoding and "
        f"folding.{more}"
    )


def _middle(simulations: pd.DataFrame, too_many: bool) -> tuple[pd.DataFrame, str]:
    """All simulations or, where that is too many, those of the network in the middle, and a sentence that says so."""
    networks = sorted(set(zip(simulations.client_bandwidth, simulations.server_bandwidth, strict=True)))
    if not too_many or len(networks) == 1:
        return simulations, ""
    client, server = networks[len(networks) // 2]
    shown = simulations[(simulations.client_bandwidth == client) & (simulations.server_bandwidth == server)]
    links = f"clients' links of {client:,g} Mbit/s and a server's of {server:,g}"
    return shown, f" Shown at {links}; the tables have the other networks."


def _some(series: int) -> str:
    return f" {MOST} of {series} series are shown; the tables have all." if series > MOST else ""


def time_to_target(frames: Frames) -> tuple[Any, str]:
    """Simulated time to the target accuracy by clients' bandwidth, a panel for each of up to three numbers of clients.

    Where all clients have one bandwidth, by the number of clients in one panel.
    """
    simulations = _need(frames["simulations"], _SIMULATE)
    reached = simulations[np.isfinite(simulations.target_seconds)]
    if reached.empty:
        raise Missing("Not shown: no run reached its target accuracy, or nothing was simulated (stage simulate).")
    by = "client_bandwidth" if reached.client_bandwidth.nunique() > 1 else "clients"
    counts = sorted(set(reached.clients))
    panels = [counts[0], counts[len(counts) // 2], counts[-1]][: len(counts)] if by == "client_bandwidth" else []
    varying = ["setting", "scheduler"] + (["server_bandwidth"] if reached.server_bandwidth.nunique() > 1 else [])
    groups = list(reached.groupby(varying, sort=False))
    figure, axes = _panels(max(1, len(panels)))
    for panel, one in zip(axes, panels or [None], strict=True):
        for i, (names, rows) in enumerate(groups[:MOST]):
            mean = (rows if one is None else rows[rows.clients == one]).groupby(by).target_seconds.mean()
            label = ", ".join(_named(key, name) for key, name in zip(varying, names, strict=True))
            panel.plot(mean.index, mean, label=label, **_style(i))
        panel.set(xscale="log", yscale="log", title="" if one is None else f"{one:,} clients")
        _ticks(panel.xaxis, sorted(set(reached[by])))
        _plain(panel.yaxis)
    what = "clients" if by == "clients" else "median client link, Mbit/s"
    for panel in axes if len(axes) < 3 else axes[1:2]:  # the label is wider than one of three panels
        panel.set_xlabel(f"{what} (log scale)")
    axes[0].set_ylabel("predicted time to target, s (log scale)")
    _legend(axes[0])
    target = text.percent(float(reached.target.min()), 1)
    curves = ", ".join(sorted(set(reached.curve)))
    return figure, (
        f"Target: {target} accuracy or more. Local steps per client until then are the run's (scheduler {curves}); "
        f"what another scheduler's staleness does to accuracy is not in it.{_some(len(groups))}"
    )


def _panels(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.2))
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


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
