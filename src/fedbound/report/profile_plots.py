"""Plots of the profile: on which links codecs pay, what messages cost, shared cores, and how busy nodes were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fedbound.report import text
from fedbound.report.plots import COLOURS, GREY, LINES, MARKERS, MOST, Frames, Missing, _axes, _legend, _plain

_PROFILE = "Not shown: nothing was profiled (stage profile)."


def break_even(frames: Frames) -> tuple[Any, str]:
    """From update ready to update decoded, coded and plain, over the bandwidth of a silo's link."""
    links = frames["links"]
    found = links[np.isfinite(links.break_even) & (links.break_even > 0)] if len(links) else links
    if found.empty:
        raise Missing("Not shown: no profiled codec saves bytes and takes time (stage profile).")
    bandwidths = np.geomspace(max(0.1, found.break_even.min() / 100), 100 * found.break_even.max(), 200)
    figure, axes = _axes()
    settings = list(dict.fromkeys(found.setting))[:MOST]
    for i, setting in enumerate(settings):
        one = found[found.setting == setting].drop_duplicates("silo")
        speedups = _speedups(one, bandwidths)
        axes.plot(bandwidths, np.median(speedups, axis=1), label=setting, color=COLOURS[i], linestyle=LINES[i])
        axes.fill_between(
            bandwidths, speedups.min(axis=1), speedups.max(axis=1), color=COLOURS[i], alpha=0.15, linewidth=0
        )
        at = float(one.break_even.median())
        axes.plot([at], [1.0], MARKERS[i], color=COLOURS[i], label=f"{setting}: break-even at {at:,.0f} Mbit/s")
    axes.plot(bandwidths[[0, -1]], [1.0, 1.0], color=GREY, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="bandwidth of a silo's link, Mbit/s (log scale)")
    axes.set_ylabel("times as fast as uncompressed (log scale)")
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    _legend(axes)
    return figure, (
        "From update ready to update decoded, the uplink alone, against sending it uncompressed: median silo, shade "
        "from the least to the most. Right of the mark compression costs more time than it saves. At its left end a "
        "line nears the codec's ratio."
    )


def _speedups(links: pd.DataFrame, bandwidths: np.ndarray) -> np.ndarray:
    """Times as fast as uncompressed, float64 [bandwidths, silos], from the ways' times on each silo's own link.

    coded = coding + sent / B and coding = (raw - sent) / break-even, in seconds and Mbit.
    """
    link, limit = links.bandwidth.to_numpy(), links.break_even.to_numpy()
    raw = links.plain_seconds.to_numpy() * link
    saved = (links.coded_seconds.to_numpy() - raw / link) / (raw * (1 / limit - 1 / link))  # share of the bytes
    return raw / (raw * (1 - saved) + bandwidths[:, None] * raw * saved / limit)


def messages(frames: Frames) -> tuple[Any, str]:
    """Measured times of messages, the lines through them, and the residuals below."""
    found = _first(frames["profile_messages"])
    if found.empty:
        raise Missing(_PROFILE)
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9.5, 6.4), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    names = list(dict.fromkeys(found.what))
    for i, what in enumerate(names[:MOST]):
        one = found[found.what == what].sort_values("bytes")
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        sizes = np.geomspace(one.bytes.min(), one.bytes.max(), 100)
        line = one.fixed_seconds.iloc[0] + one.byte_seconds.iloc[0] * sizes
        above.plot(one.bytes, 1e3 * one.measured, marker, color=colour, linestyle="none", label=_line(one))
        above.plot(sizes, 1e3 * line, color=colour, linewidth=1)
        below.plot(one.bytes, 100 * one.residual, marker, color=colour, linestyle=":")
    axis = "message, bytes (log scale)"
    above.set(xscale="log", yscale="log", xlabel=axis, ylabel="one way, ms (log scale)")
    below.axhline(0, color=GREY, linewidth=1)
    below.set(xlabel=axis, ylabel="residual, %")
    _plain(above.yaxis)
    _legend(above)
    more = f" {MOST} of {len(names)} are shown; the table has all." if len(names) > MOST else ""
    return figure, (
        "Marks: medians; lines: least squares of the relative residuals, which are below. 'Server' is its processor's "
        f"time, 'link' what the rest of the way takes, 'nodes' MPI without packing and checking.{more}"
    )


def _line(one: pd.DataFrame) -> str:
    fixed, each = one.fixed_seconds.iloc[0], one.byte_seconds.iloc[0]
    return f"{one.what.iloc[0]}: {text.seconds(fixed)}, then {text.rate(1 / each)}"


def sharing(frames: Frames) -> tuple[Any, str]:
    """Time of the same work by the number of a node's ranks that are at it."""
    found = _first(frames["profile_sharing"])
    found = found[found.kind == "shared"] if len(found) else found
    if found.empty:
        raise Missing(_PROFILE)
    figure, axes = _axes()
    node = found[found.node == found.node.iloc[0]]
    parts = {"train_seconds": "training", "encode_seconds": "encoding", "evaluate_seconds": "evaluating"}
    for i, (key, name) in enumerate(parts.items()):
        base = node[node.working == 1][key].mean()
        if not base > 0:
            continue
        times = node.groupby("working")[key].mean() / base
        axes.plot(node.working + 0.04 * (i - 1), node[key] / base, ".", color=COLOURS[i], alpha=0.4)
        axes.plot(times.index, times, marker=MARKERS[i], color=COLOURS[i], linestyle=LINES[i], label=name)
    most = int(node.working.max())
    cores = frames["profile_server"].cores.iloc[0] if len(frames["profile_server"]) else 1
    counts = np.arange(1, most + 1)
    axes.plot(counts, np.maximum(1, counts / cores), color=GREY, linewidth=3, alpha=0.5, label=f"{cores} ideal cores")
    axes.set(xlabel="ranks of the node at work", ylabel="times as long as alone", xticks=counts[:: max(1, most // 16)])
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure, (
        "The same steps in every rank, on one node of the first type; dots are single measurements. Above grey: memory "
        "and caches are shared too, or other work was on the machine."
    )


def utilisation(frames: Frames) -> tuple[Any, str]:
    """Samples of the first profile through its rounds."""
    found = _first(frames["profile_utilisation"])
    if found.empty:
        raise Missing("Not shown: no round was long enough for a sample, or nothing was profiled (stage profile).")
    figure, axes = _axes()
    for i, (node, one) in enumerate(list(found.groupby("node"))[:MOST]):
        style = {"color": COLOURS[i % len(COLOURS)]}
        axes.plot(one.time, 100 * one.cpu, label=f"node {node}, processor", **style)
        if np.isfinite(one.gpu).any():
            axes.plot(one.time, 100 * one.gpu, label=f"node {node}, GPU", linestyle="--", **style)
        rate = (one.sent + one.received) / 1e6
        if rate.max() > 0:
            axes.plot(one.time, 100 * rate / rate.max(), linestyle=":", label=f"node {node}, network", **style)
    for _, start in found.groupby("round").time.min().iloc[1:].items():
        axes.axvline(start, color=GREY, linewidth=0.6)
    axes.set(xlabel="seconds (grey: a round begins)", ylabel="busy, %", ylim=(0, 105))
    _legend(axes)
    return figure, (
        "The first profile's rounds, the warm-up first. Processor: of the cores that the job may use. Network: of the "
        "busiest sample, loopback aside; ranks of one node do not use it."
    )


def _first(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first profile."""
    return frame[frame.stem == frame.stem.iloc[0]] if len(frame) else frame
