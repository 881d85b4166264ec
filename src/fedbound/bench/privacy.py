"""Published figures of private mean estimation and accounting beside ours, audits, and speeds.

Settings, sources and what was expected are in `privacy_anchors.py`. A case whose difference exceeds its tolerance is
marked and explained; the exit code does not depend on it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fedbound.bench import privacy_audits, privacy_speeds
from fedbound.bench.privacy_anchors import GROUPS, Anchor, Group
from fedbound.bench.rows import Row, aligned, find

BENCH = "privacy"
_SEPARATOR = ": "


def run(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Compute every anchor and audit, a thread for each core, then measure speeds; returns the rows."""
    rows: list[Row] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        audits = privacy_audits.start(threads, BENCH, 10**5 if quick else 10**6)
        for anchors, seconds in threads.map(lambda group: _timed(group, quick), GROUPS):
            rows += [row for anchor in anchors for row in _rows(anchor)]
            met = sum(anchor.met for anchor in anchors)
            say(f"{anchors[0].group}: {met} of {len(anchors)} within tolerance, {seconds:.1f} s")
        rows += privacy_audits.finish(audits, say)
    return rows + privacy_speeds.run(BENCH, quick, say)


def _timed(group: Group, quick: bool) -> tuple[list[Anchor], float]:
    """A group's anchors, and wall seconds."""
    started = time.perf_counter()
    return list(group(quick)), time.perf_counter() - started


def _rows(anchor: Anchor) -> list[Row]:
    case = f"{anchor.group}{_SEPARATOR}{anchor.case}"
    figures = {"ours": anchor.ours, "expected": anchor.expected, "published": anchor.published}
    rows = [Row(BENCH, case, "", name, float(value), anchor.unit) for name, value in figures.items()]
    rows += [
        Row(BENCH, case, "", "difference", anchor.difference, "1"),
        Row(BENCH, case, "", "tolerance", anchor.tolerance, "1"),
        Row(BENCH, case, "", "met", float(anchor.met), "1"),
    ]
    return [*rows, Row(BENCH, case, "", "remark", anchor.why, "")] if anchor.why else rows


def table(rows: Sequence[Row]) -> str:
    """One table per group, marked where a tolerance was not met, and the speeds."""
    parts = []
    cases = list(dict.fromkeys(row.case for row in rows if row.metric == "ours"))
    remarks = {row.case: str(row.value) for row in rows if row.metric == "remark"}
    for group in dict.fromkeys(case.split(_SEPARATOR + case.rsplit(_SEPARATOR, 1)[1])[0] for case in cases):
        own = [case for case in cases if case.rsplit(_SEPARATOR, 1)[0] == group]
        lines = []
        for case in own:
            figures = [find(rows, name, case) for name in ("published", "expected", "ours")]
            texts = ["" if math.isnan(value) else f"{value:.4g}" for value in figures]
            difference = f"{100 * find(rows, 'difference', case):+.1f}"
            met = "" if find(rows, "met", case) else "no"
            lines.append(
                (case.rsplit(_SEPARATOR, 1)[1], *texts, difference, f"{100 * find(rows, 'tolerance', case):g}", met)
            )
        head = (group, "published", "expected", "ours", "difference %", "allowed %", "met")
        notes = dict.fromkeys(remarks[case] for case in own if case in remarks)
        parts.append("\n".join([aligned(head, lines), *(f"  {note}" for note in notes)]))
    audited = list(dict.fromkeys(row.case for row in rows if row.metric == "claimed"))
    if audited:
        names = ("claimed", "exact", "audited", "audited_gaussian")
        lines = []
        for case in audited:
            values = [find(rows, name, case) for name in names]
            texts = ["" if math.isnan(value) else f"{value:.3f}" for value in values]
            lines.append((case, *texts, "yes" if find(rows, "exceeds", case) else ""))
        parts.append(aligned(("epsilon", "claimed", "exact here", "audited", "if Gaussian", "exceeds"), lines))
    parts.append(privacy_speeds.table(rows))
    return "\n\n".join(filter(None, parts))


def plot(rows: Sequence[Row], path: Path) -> None:
    """Every anchor's difference from its target against its tolerance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY

    cases = list(dict.fromkeys(row.case for row in rows if row.metric == "ours"))
    groups = list(dict.fromkeys(case.rsplit(_SEPARATOR, 1)[0] for case in cases))
    figure, axes = plt.subplots(figsize=(10, 0.6 * len(groups) + 1.2), layout="constrained")
    far = 1.0
    for index, group in enumerate(groups):
        own = [case for case in cases if case.rsplit(_SEPARATOR, 1)[0] == group]
        shares = [find(rows, "difference", case) / find(rows, "tolerance", case) for case in own]
        far = max(far, *np.abs(shares))
        heights = index + np.linspace(-0.25, 0.25, len(own)) if len(own) > 1 else [index]
        axes.plot(shares, heights, ".", color=COLOURS[index % len(COLOURS)])
    axes.axvspan(-1, 1, color=GREY, alpha=0.15)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-1.5 * far, 1.5 * far)
    ticks = [sign * 10**power for power in range(math.ceil(math.log10(1.5 * far))) for sign in (-1, 1)]
    axes.set_xticks([0, *ticks], [f"{tick:g}" for tick in (0, *ticks)])
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("difference from the target, in tolerances (grey: met)")
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=140)
    plt.close(figure)
