"""The report's plots: each answers one question, and one without data is a sentence instead of an empty frame.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any colour vision tell apart;
markers and line styles repeat what colours say, for print in grey.
"""

from __future__ import annotations

import base64
import importlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.report import privacy_plots, text

if TYPE_CHECKING:
    import pandas as pd

Frames = Mapping[str, "pd.DataFrame"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A90B")
MARKERS = "osD^vP*X"
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)))
GREY = "#595959"
MOST = 8  # settings in one plot; more than that nobody tells apart
_LARGEST_SVG = 400_000  # bytes; a larger plot is embedded as PNG
_STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "svg.hashsalt": "fedbound",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """One answer: `source` is a data URI, or '' where `caption` says what is missing."""

    name: str
    question: str
    caption: str
    source: str = ""


def make(frames: Frames, problem: str = "") -> dict[str, list[Plot]]:
    """All plots by section of the report; `frames` are study.h5's tables, `problem` picks one data set and model."""
    import matplotlib

    frames = of_problem(frames, problem)
    with matplotlib.rc_context(_STYLE):
        return {section: [_plot(frames, *entry) for entry in entries] for section, entries in _SECTIONS.items()}


def of_problem(frames: Frames, problem: str) -> dict[str, pd.DataFrame]:
    """The frames with only those training settings that belong to `problem`."""
    settings = frames["settings"]
    inside = set(settings.setting[settings.problem == problem])
    trained = ("settings", "runs", "rounds", "silos", "evaluations", "comparisons", "pareto")
    return {name: frame[frame.setting.isin(inside)] if name in trained else frame for name, frame in frames.items()}


Draw = Callable[[Frames], tuple[Any, str]]


class Missing(Exception):
    """There is nothing to draw; the message says which stage was not run."""


def _plot(frames: Frames, name: str, question: str, draw: Draw) -> Plot:
    try:
        figure, caption = draw(frames)
    except Missing as missing:
        return Plot(name, question, str(missing))
    return Plot(name, question, caption, embed(figure))


def embed(figure: Any) -> str:
    """A figure as data URI: SVG, or PNG where the SVG is too large."""
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    if len(svg.getvalue()) <= _LARGEST_SVG:
        return f"data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}"
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=170)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _need(frame: pd.DataFrame, sentence: str) -> pd.DataFrame:
    if frame.empty:
        raise Missing(sentence)
    return frame


def _axes(height: float = 4.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state, nothing to close

    figure = Figure(figsize=(8.0, height))
    return figure, figure.subplots()


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % 8], "marker": MARKERS[index % 8], "linestyle": LINES[index % 8]}


def _legend(axes: Any) -> None:
    """Above the plot, where it covers no curve and takes none of the width."""
    handles, names = axes.get_legend_handles_labels()
    longest = max(len(name) for name in names)
    columns = max(1, min(len(names), 90 // (longest + 8)))
    lines = -(-len(names) // columns)
    axes.figure.set_figheight(axes.figure.get_figheight() + 0.24 * max(0, lines - 2))
    axes.figure.legend(handles, names, loc="outside upper left", ncols=columns)


def shown(frames: Frames) -> list[str]:
    """Settings that plots show: uncompressed and recommended first, then those with the fewest bytes."""
    pareto = frames["pareto"]
    if pareto.empty:
        return []
    uncompressed = set(frames["comparisons"].baseline)
    rank = [(not (row.chosen or row.setting in uncompressed), not row.front, row.bytes) for row in pareto.itertuples()]
    order = sorted(range(len(rank)), key=rank.__getitem__)[:MOST]
    return [pareto.setting.iloc[i] for i in sorted(order, key=lambda i: -pareto.bytes.iloc[i])]


def _some(frames: Frames, kept: Sequence[str]) -> str:
    total = len(frames["settings"])
    return f" {len(kept)} of {total} settings are shown; the tables have all." if len(kept) < total else ""


_TRAIN = "Not shown: no training run was collected (stage train)."


# ---- training -------------------------------------------------------------------------------------------------------


def accuracy_by_round(frames: Frames) -> tuple[Any, str]:
    rounds, kept = _need(frames["rounds"], _TRAIN), shown(frames)
    figure, axes = _axes()
    for i, setting in enumerate(kept):
        by_round = rounds[rounds.setting == setting].groupby("round").accuracy
        mean, sd = by_round.mean() * 100, by_round.std().fillna(0) * 100
        style = _style(i)
        axes.plot(mean.index, mean, label=setting, markevery=_every(len(mean)), **style)
        axes.fill_between(mean.index, mean - sd, mean + sd, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="rounds completed", ylabel="test accuracy, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)
    seeds = int(frames["settings"].seeds.max())
    band = f"; bands are ±1 standard deviation over {seeds} seeds" if seeds > 1 else ""
    return figure, f"Accuracy over all silos' test samples, mean over seeds{band}.{_some(frames, kept)}"


def _every(points: int) -> int:
    return max(1, points // 12)


def accuracy_by_bytes(frames: Frames) -> tuple[Any, str]:
    rounds, kept = _need(frames["rounds"], _TRAIN), shown(frames)
    figure, axes = _axes()
    for i, setting in enumerate(kept):
        one = rounds[rounds.setting == setting].sort_values(["seed", "round"])
        sent = (one.bytes_up + one.bytes_down).groupby(one.seed).cumsum()
        mean = one.assign(sent=sent / 1e6).groupby("round")[["sent", "accuracy"]].mean()
        mean = mean[mean.sent > 0]
        axes.plot(mean.sent, mean.accuracy * 100, label=setting, markevery=_every(len(mean)), **_style(i))
        axes.plot(mean.sent.iloc[-1:], mean.accuracy.iloc[-1:] * 100, **_style(i) | {"markersize": 10})
    axes.set(xlabel="sent so far, both ways, MB (log scale)", ylabel="test accuracy, %", xscale="log")
    _plain(axes.xaxis)
    _legend(axes)
    return figure, f"Mean over seeds; the large mark is the last round.{_some(frames, kept)}"


def accuracy_by_silo(frames: Frames) -> tuple[Any, str]:
    evaluations, kept = _need(frames["evaluations"], _TRAIN), shown(frames)
    last = evaluations[evaluations["round"] == evaluations.groupby("stem")["round"].transform("max")]
    means = last.groupby(["setting", "silo"]).test_accuracy.mean().unstack("silo") * 100
    reference = next((s for s in kept if s in set(frames["comparisons"].baseline)), kept[0])
    order = means.loc[reference].sort_values(kind="stable").index
    figure, axes = _axes()
    positions = np.arange(len(order))
    for i, setting in enumerate(kept):
        shift = (i - (len(kept) - 1) / 2) * 0.6 / len(kept)
        style = {**_style(i), "linestyle": "none"}
        axes.plot(positions + shift, means.loc[setting, order], label=setting, **style)
    few = len(order) <= 24
    axes.set_xticks(positions if few else [], order if few else [])
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="silo, ordered by accuracy of " + repr(reference), ylabel="own test accuracy, %")
    _legend(axes)
    return figure, f"Each silo's own test samples after the last round, mean over seeds.{_some(frames, kept)}"


# ---- calibration ----------------------------------------------------------------------------------------------------


def calibration(frames: Frames) -> tuple[Any, str]:
    from fedbound.calibration.student import upper_limit

    probes = _need(frames["probes"], "Not shown: no bound was calibrated (stage calibrate).")
    decisions = frames["decision"].set_index("stem")
    figure, axes = _axes()
    stems = list(dict.fromkeys(probes.stem))[:4]
    for i, stem in enumerate(stems):
        one = probes[(probes.stem == stem) & (probes.scale > 0)]
        drops = one.groupby("scale")["drop"]
        mean, upper = drops.mean(), drops.apply(lambda d: upper_limit(d.to_numpy()))
        style, accepted = _style(i), decisions.scale[stem]
        named = f"{decisions.setting[stem]}: " if len(stems) > 1 else ""
        axes.plot(one.scale, one["drop"], linestyle="none", marker=".", color=style["color"], alpha=0.45)
        axes.plot(mean.index, mean, label=f"{named}mean drop", **style)
        axes.plot(upper.index, upper, color=style["color"], linestyle=":", label=f"{named}95 % upper limit")
        if accepted > 0:
            axes.axvline(accepted, color=style["color"], linewidth=1.2, label=f"{named}accepted {accepted:.3g}")
    for tolerance in sorted(set(decisions.tolerance[stems])):
        axes.axhline(tolerance, color=GREY, linestyle="--", linewidth=1.2, label=f"tolerance {tolerance:g}")
    axes.set(xlabel=f"error bound, {_bound_unit(decisions)} (log scale)", xscale="log")
    axes.set_ylabel("accuracy drop, percentage points")
    _plain(axes.xaxis)
    _linear_near_zero(axes, probes["drop"], float(decisions.tolerance.max()))
    _legend(axes)
    return figure, "Drop against the uncompressed run of the same seed; small dots are single seeds."


def _bound_unit(decisions: pd.DataFrame) -> str:
    """What relative bounds are relative to."""
    words = {"std": "standard deviations of each tensor", "range": "share of each tensor's range"}
    return " or ".join(words.get(rule, words["range"]) for rule in dict.fromkeys(decisions.rule))


def _linear_near_zero(axes: Any, drops: pd.Series, tolerance: float) -> None:
    """Drops from a fraction of a point to the whole accuracy: linear up to twice the tolerance, then logarithmic."""
    if drops.max() > 10 * tolerance:
        axes.set_yscale("symlog", linthresh=2 * tolerance)
        axes.set_ylim(bottom=min(0.0, drops.min()) - tolerance / 4)
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")


# ---- privacy --------------------------------------------------------------------------------------------------------


def privacy(frames: Frames) -> tuple[Any, str]:
    results = _need(frames["privacy"], "Not shown: no privacy cell was collected (stage privacy).")
    kind = ["clients", "dimension", "clip", "delta"]
    cells = dict(list(results.groupby(kind, sort=False)))
    clients, dimension, clip, delta = most = max(cells, key=lambda cell: len(cells[cell]))
    one = cells[most]
    figure, axes = _axes()
    several = one.norm.nunique() > 1
    for i, (name, rows) in enumerate(list(one.groupby("setting", sort=False))[:MOST]):
        rows = rows.sort_values("epsilon")
        label = f"{name} ({rows.norm.iloc[0]} norm)" if several else name
        axes.errorbar(rows.epsilon, rows.mse_scaled, yerr=2 * rows.mse_se, label=label, capsize=3, **_style(i))
    floor = one.groupby("target_epsilon").floor.min()
    axes.plot(floor.index, floor, color=GREY, linewidth=3, alpha=0.6, label="central Gaussian", zorder=1)
    axes.set(xscale="log", yscale="log", xlabel="epsilon (log scale)", ylabel="MSE per coordinate (log scale)")
    _ticks(axes.xaxis, sorted(set(one.target_epsilon)))
    _legend(axes)
    more = f" Of {len(cells)} kinds of cells the most frequent is shown." if len(cells) > 1 else ""
    if several:
        more += " Vectors whose L1 norm is clipped are shorter than with the L2 norm: compare within one norm."
    return figure, (
        f"Error of the estimated mean of {clients:,} clients' vectors of {dimension:,} coordinates, norm at most "
        f"{clip:g}; bars are ±2 standard errors. Grey: the central analytic Gaussian mechanism at the same epsilon "
        f"and delta = {delta:g}.{more}"
    )


def _ticks(axis: Any, values: Iterable[float]) -> None:
    """Ticks of a log axis at the values that were set, written as they were set."""
    _make_room(axis)
    kept: list[float] = []
    for value in values:
        if not kept or value >= 1.5 * kept[-1]:
            kept.append(value)
    axis.set_ticks(kept, labels=[f"{value:,g}" if value < 1e6 else f"{value:.0e}" for value in kept])
    axis.set_ticks([], minor=True)


def _make_room(axis: Any) -> None:
    """Let a log axis of values that are all (nearly) the same span a factor of four: it would have no length."""
    low, high = axis.get_view_interval()
    if high < 1.05 * low:
        middle = math.sqrt(low * high)
        getattr(axis.axes, f"set_{axis.axis_name}lim")(middle / 2, 2 * middle)


def _plain(axis: Any) -> None:
    """Plain numbers on a log axis; 1-2-5 steps where it spans less than two decades, so that some tick is there."""
    from matplotlib.ticker import LogLocator, NullFormatter

    _make_room(axis)
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axis.set_major_formatter(lambda value, _position: text.number(value))
    axis.set_minor_formatter(NullFormatter())


# ---- simulation -----------------------------------------------------------------------------------------------------


def predicted_against_measured(frames: Frames) -> tuple[Any, str]:
    validation = _need(
        frames["validation"],
        "Not shown: no simulation has as many clients as the training run has silos (stage simulate).",
    )
    figure, axes = _axes(height=5.0)
    settings = list(dict.fromkeys(validation.setting))[:MOST]
    for i, setting in enumerate(settings):
        one = validation[validation.setting == setting]
        whole = one.quantity == "round"
        colour = COLOURS[i]
        axes.plot(
            one.measured[whole], one.predicted[whole], "s", color=colour, markersize=9, label=f"{setting}: whole round"
        )
        axes.plot(
            one.measured[~whole],
            one.predicted[~whole],
            "o",
            color=colour,
            fillstyle="none",
            label=f"{setting}: a silo's arrival",
        )
    both = validation[["measured", "predicted"]].to_numpy()
    low, high = both.min() * 0.9, both.max() * 1.1
    span = np.array([low, high])
    axes.fill_between(span, span * 0.95, span * 1.05, color=GREY, alpha=0.2, linewidth=0, label="within 5 %")
    axes.plot(span, span, color=GREY, linewidth=1)
    scale = "log" if low > 0 and high / low > 10 else "linear"
    axes.set(xlabel="measured, s", ylabel="predicted, s", xscale=scale, yscale=scale, xlim=span, ylim=span)
    if scale == "log":
        _plain(axes.xaxis)
        _plain(axes.yaxis)
    _legend(axes)
    worst = text.percent(validation.error[validation.quantity == "round"].abs().max(), 0)
    return figure, f"The study's own run against its prediction; the largest error of a round's time is {worst}."


# ---- profile --------------------------------------------------------------------------------------------------------


def codecs(frames: Frames) -> tuple[Any, str]:
    profile = _need(frames["profile_codec"], "Not shown: nothing was profiled (stage profile).")
    figure, axes = _axes()
    settings = list(dict.fromkeys(profile.setting))[:MOST]
    for i, setting in enumerate(settings):
        one = profile[profile.setting == setting]
        style = {**_style(i), "linestyle": "none"}
        axes.plot(one.encode_rate / 1e6, one.ratio, label=f"{setting}, encoding", **style)
        axes.plot(one.decode_rate / 1e6, one.ratio, label=f"{setting}, decoding", fillstyle="none", **style)
    axes.set(xscale="log", yscale="log", xlabel="speed, MB of raw values per second (log scale)")
    axes.set_ylabel("compression ratio (log scale)")
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    _legend(axes)
    return figure, "One mark per block of a real update, in an early and a late round; up and to the right is better."


def _later(module: str, name: str) -> Draw:
    """A plot of a module that draws with this one's tools, and so is imported later."""

    def draw(frames: Frames) -> tuple[Any, str]:
        drawn: tuple[Any, str] = getattr(importlib.import_module(f"fedbound.report.{module}"), name)(frames)
        return drawn

    return draw


_SECTIONS: dict[str, list[tuple[str, str, Draw]]] = {
    "training": [
        ("accuracy-by-round", "Does compression slow learning down?", accuracy_by_round),
        ("accuracy-by-bytes", "How much accuracy does a byte buy?", accuracy_by_bytes),
        ("accuracy-by-silo", "Does any silo pay for the compression?", accuracy_by_silo),
    ],
    "calibration": [
        ("calibration", "How large may the error bound be?", calibration),
        ("calibration-bytes", "What does each bound cost, and where is the knee?", _later("calibration", "knee")),
        ("calibration-spread", "Do bounds set silos apart?", _later("calibration", "spread")),
        ("calibration-layers", "What is the bound of each tensor?", _later("calibration", "layers")),
    ],
    "privacy": [
        ("privacy", "What does each mechanism cost at each epsilon?", privacy),
        ("privacy-bits", "What does a bit buy under privacy?", privacy_plots.bits),
        ("privacy-audit", "Do the claims survive an attack?", privacy_plots.claims),
    ],
    "simulation": [
        (
            "round-time",
            "How long is a round at scale, with and without compression?",
            _later("simulation_plots", "simulated_times"),
        ),
        ("time-to-target", "Which strategy is there first?", _later("simulation_plots", "time_to_target")),
        ("time-shares", "Where does the time go?", _later("simulation_plots", "where_time_goes")),
        ("timeline", "What does a round look like from inside?", _later("simulation_plots", "timeline")),
        ("validation", "Can the predictions be trusted?", predicted_against_measured),
    ],
    "profile": [
        ("codecs", "How fast and how strong are the codecs?", codecs),
        ("break-even", "On which links does each codec pay?", _later("profile_plots", "break_even")),
        ("messages", "What does a message cost, and does a line describe it?", _later("profile_plots", "messages")),
        ("sharing", "How much slower are ranks that share a node's cores?", _later("profile_plots", "sharing")),
        ("utilisation", "How busy is a node during the rounds?", _later("profile_plots", "utilisation")),
    ],
}
