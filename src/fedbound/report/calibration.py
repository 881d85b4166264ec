"""The report's plots of the calibrate stage; drawn in the style of plots.py, which lists them."""

from __future__ import annotations

from typing import Any

from fedbound.report import plots

_MISSING = "Not shown: no bound was calibrated (stage calibrate)."


def knee(frames: plots.Frames) -> tuple[Any, str]:
    """Accuracy drop against bytes of all probes, the accepted bound marked."""
    probes, stems = _calibrations(frames)
    decisions = frames["decision"].set_index("stem")
    figure, axes = plots._axes()
    for i, stem in enumerate(stems):
        one = probes[(probes.stem == stem) & (probes.scale > 0)]
        sent = (one.bytes_up + one.bytes_down) / 1e6
        mean = one.assign(sent=sent).groupby("scale")[["sent", "drop"]].mean().sort_values("sent")
        style, accepted = plots._style(i), decisions.scale[stem]
        named = f"{decisions.setting[stem]}: " if len(stems) > 1 else ""
        axes.plot(mean.sent, mean["drop"], label=f"{named}mean drop at each bound", **style)
        if accepted in mean.index:
            at = {"color": style["color"], "marker": "*", "markersize": 16, "linestyle": "none"}
            label = f"{named}accepted {accepted:.3g}"
            axes.plot(mean.sent[[accepted]], mean["drop"][[accepted]], label=label, **at)
    for tolerance in sorted(set(decisions.tolerance[stems])):
        label = f"tolerance {tolerance:g}"
        axes.axhline(tolerance, color=plots.GREY, linestyle="--", linewidth=1.2, label=label)
    axes.set(xlabel="bytes of a probe both ways, MB (log scale)", xscale="log")
    axes.set_ylabel("accuracy drop, percentage points")
    plots._plain(axes.xaxis)
    plots._linear_near_zero(axes, probes["drop"], float(decisions.tolerance.max()))
    plots._legend(axes)
    return figure, "Mean over the seeds that each bound was run with; further left is cheaper, lower is better."


def spread(frames: plots.Frames) -> tuple[Any, str]:
    """Spread over silos at each bound, against the uncompressed one."""
    probes, stems = _calibrations(frames)
    decisions = frames["decision"].set_index("stem")
    figure, axes = plots._axes()
    for i, stem in enumerate(stems):
        one = probes[probes.stem == stem]
        style = plots._style(i)
        named = f"{decisions.setting[stem]}: " if len(stems) > 1 else ""
        bounded, plain = one[one.scale > 0], one[one.scale == 0]
        mean = bounded.groupby("scale").spread.mean() * 100
        axes.plot(mean.index, mean, label=f"{named}at each bound", **style)
        axes.axhline(
            100 * plain.spread.mean(), color=style["color"], linestyle=":", label=f"{named}uncompressed", linewidth=1.5
        )
        if decisions.scale[stem] > 0:
            label = f"{named}accepted {decisions.scale[stem]:.3g}"
            axes.axvline(decisions.scale[stem], color=style["color"], linewidth=1.2, label=label)
    axes.set(xlabel=f"error bound, {plots._bound_unit(decisions)} (log scale)", xscale="log")
    axes.set_ylabel("standard deviation over silos, points")
    plots._plain(axes.xaxis)
    plots._legend(axes)
    return figure, "Spread of the silos' own validation accuracies, mean over seeds."


def layers(frames: plots.Frames) -> tuple[Any, str]:
    """Absolute bound of each tensor at the start, by direction; silos' own bounds as small marks."""
    _, stems = _calibrations(frames)
    bounds = frames["bounds"]
    one = bounds[(bounds.stem == stems[0]) & (bounds.bound > 0)]
    plots._need(one, _MISSING)
    tensors = list(dict.fromkeys(one.tensor))[: 3 * plots.MOST]
    place = {name: i for i, name in enumerate(tensors)}
    one = one[one.tensor.isin(tensors)]
    figure, axes = plots._axes()
    for i, (direction, label) in enumerate((("up", "silo to server"), ("down", "server to silo"))):
        rows = one[(one.direction == direction) & (one.silo < 0)]
        style = {**plots._style(i), "linestyle": "none"}
        if len(rows):
            axes.plot([place[name] for name in rows.tensor], rows.bound, label=label, **style)
        own = one[(one.direction == direction) & (one.silo >= 0)]
        if len(own):
            style |= {"marker": ".", "alpha": 0.5}
            axes.plot([place[name] for name in own.tensor], own.bound, label=f"{label}, single silos", **style)
    axes.set_xticks(range(len(tensors)), tensors, rotation=20 if len(tensors) > 4 else 0)
    axes.set(xlabel="tensor", ylabel="absolute bound at round 0 (log scale)", yscale="log")
    axes.set_xlim(-0.5, len(tensors) - 0.5)
    plots._legend(axes)
    more = " The first calibration is shown." if frames["bounds"].stem.nunique() > 1 else ""
    return figure, f"Mean over silos of a first, uncompressed round; later rounds follow what is encoded.{more}"


def _calibrations(frames: plots.Frames) -> tuple[Any, list[str]]:
    """The probes, and the calibrations that are shown."""
    probes = plots._need(frames["probes"], _MISSING)
    return probes, list(dict.fromkeys(probes.stem))[:4]
