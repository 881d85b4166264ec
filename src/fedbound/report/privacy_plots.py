"""Plots of private mean estimation: error against bits, and claims against what audits show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedbound.report import text

if TYPE_CHECKING:
    import pandas as pd

Frames = Mapping[str, "pd.DataFrame"]
_MISSING = "Not shown: no privacy cell was collected (stage privacy)."


def bits(frames: Frames) -> tuple[Any, str]:
    """Error against bits, every setting at the epsilon that most of them have, beside the central Gaussian's."""
    from fedbound.report import plots

    results = plots._need(frames["privacy"], _MISSING)
    kind = ["clients", "dimension", "clip", "delta", "target_epsilon"]
    cells = dict(list(results.groupby(kind, sort=False)))
    clients, dimension, clip, _, epsilon = most = max(cells, key=lambda cell: len(cells[cell]))
    one = cells[most]
    figure, axes = plots._axes()
    for i, (name, rows) in enumerate(list(one.groupby("setting", sort=False))[: plots.MOST]):
        style = {**plots._style(i), "linestyle": "none"}
        label = f"{name} ({rows.trust.iloc[0]}, {rows.norm.iloc[0]})"
        axes.errorbar(rows.bits, rows.mse_scaled, yerr=2 * rows.mse_se, label=label, capsize=3, **style)
    ends, floor = [one.bits.min() / 1.5, one.bits.max() * 1.5], one.floor.min()
    axes.plot(ends, [floor, floor], color=plots.GREY, linewidth=3, alpha=0.6, label="central Gaussian", zorder=1)
    axes.set(xscale="log", yscale="log", ylabel="MSE per coordinate (log scale)")
    axes.set_xlabel("bits per coordinate that a client sends (log scale)")
    plots._plain(axes.xaxis)
    plots._legend(axes)
    return figure, (
        f"At epsilon {epsilon:g}: {clients:,} clients' vectors of {dimension:,} coordinates, norm at most {clip:g}. "
        "Down and to the left is better, within one trust model and one norm; grey is the central analytic "
        "Gaussian mechanism's error. Biased estimates are divided by their gain first."
    )


def claims(frames: Frames) -> tuple[Any, str]:
    """The audit's lower bound against the claim of the audited release."""
    from fedbound.report import plots

    results = plots._need(frames["privacy"], _MISSING)
    results = plots._need(results[results.audited.notna()], "Not shown: no mechanism was audited (stage privacy).")
    figure, axes = plots._axes()
    for i, (name, rows) in enumerate(list(results.groupby("setting", sort=False))[: plots.MOST]):
        rows = rows.sort_values("audit_claim")
        axes.plot(rows.audit_claim, rows.audited, label=name, **plots._style(i))
        close = rows[rows.audited_gaussian.notna()]
        axes.plot(close.audit_claim, close.audited_gaussian, **{**plots._style(i), "fillstyle": "none"})
    low, high = results.audit_claim.min(), results.audit_claim.max()
    axes.plot([0.9 * low, 1.1 * high], [0.9 * low, 1.1 * high], color=plots.GREY, linewidth=3, alpha=0.6, label="claim")
    axes.set(xlabel="claimed epsilon", ylabel="lower bound of epsilon from the audit")
    plots._legend(axes)
    draws = text.number(float(results.audit_draws.max()))
    return figure, (
        f"What an attack with {draws} draws on each side shows of the mechanism in one coordinate; a mark above the "
        "grey line would refute the claim. Open marks: if the trade-off of errors is a Gaussian's."
    )
