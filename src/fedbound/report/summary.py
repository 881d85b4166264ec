"""The small table that `make study` prints when it is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedbound.artifacts import Artifact, read
from fedbound.report import text

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 100
_MOST_ROWS = 12


def summary(path: str | os.PathLike[str]) -> str:
    """The main figures of a collected study as plain text of at most 100 columns (paths apart).

    Raises:
        ArtifactError: `path` is missing, damaged, or no collected study.
    """
    study = read(path, "collect")
    blocks = [
        [f"Study {study.study}", "=" * (6 + len(study.study))],
        list(_training(study)),
        list(_calibration(study["decision"])),
        list(_privacy(study["privacy"])),
        list(_simulation(study)),
        list(_files(Path(path))),
        list(_recommendation(study["recommendation"])),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _training(study: Artifact) -> Iterator[str]:
    settings, comparisons = study["settings"], study["comparisons"].set_index("setting")
    if settings.empty:
        return
    head = ("setting", "accuracy", "worst silo", "ratio", "sent both ways", "drop (95 % limit), points")
    rows = [_setting(row, comparisons) for row in settings.head(_MOST_ROWS).itertuples()]
    yield from columns([head, *rows])
    if len(settings) > _MOST_ROWS:
        yield f"... and {len(settings) - _MOST_ROWS} settings more in the report"


def _setting(row: Any, comparisons: pd.DataFrame) -> tuple[str, ...]:
    sd = f" ± {100 * row.accuracy_sd:.1f}" if row.seeds > 1 else ""
    drop = "–"
    if row.setting in comparisons.index:
        pair = comparisons.loc[row.setting]
        limit = f"≤ {text.points(pair.drop_upper)}" if pair.seeds > 1 else "one seed"
        drop = f"{text.points(pair['drop'])} ({limit})"
    ratio = f"{text.number(row.ratio_both, 3)}x"
    accuracy = f"{100 * row.accuracy:.1f}{sd} %"
    return row.setting, accuracy, text.percent(row.worst_silo), ratio, text.size(row.bytes), drop


def columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows of cells as aligned lines: the first to the left, the others to the right; long names lose their middle."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    for row in rows:
        first = _shortened(row[0], widths[0])
        rest = "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        yield f"{first:<{widths[0]}}{rest}"


def _shortened(name: str, width: int) -> str:
    """The name in `width` characters: its beginning and its end, as settings often differ at their end only."""
    begin = width // 2
    return name if len(name) <= width else f"{name[:begin]}…{name[len(name) - (width - begin - 1) :]}"


def _calibration(decisions: pd.DataFrame) -> Iterator[str]:
    for row in decisions.head(4).itertuples():
        if row.scale > 0:
            limit = f"drop {text.points(row.mean_drop)}, at most {text.points(row.upper_drop)} points"
            unit = "standard deviations" if row.rule == "std" else "of each tensor's range"
            yield _cut(f"calibrated bound ({row.setting}): {row.scale:.3g} {unit} ({limit})")
        else:
            yield _cut(f"calibrated bound ({row.setting}): none keeps accuracy within {row.tolerance:g} points")


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _privacy(results: pd.DataFrame) -> Iterator[str]:
    """The mechanism with the least error at each epsilon, apart for each norm that is clipped."""
    if results.empty:
        return
    cells = results.groupby(["norm", "target_epsilon", "delta"])
    best = results.loc[cells.mse_scaled.idxmin()].sort_values(["norm", "target_epsilon"], ascending=[False, True])
    rows = [
        (
            f"epsilon {row.target_epsilon:g}, delta {row.delta:g}, {row.norm} norm",
            row.setting,
            text.number(row.mse_scaled, 3),
            text.number(row.mse_scaled / row.floor, 3) if row.norm == "L2" else "–",  # the floor is that of the L2 norm
            text.number(row.bits, 3),
        )
        for row in best.head(_MOST_ROWS).itertuples()
    ]
    yield from columns([("best mechanism at", "mechanism", "MSE", "over central floor", "bits"), *rows])


def _simulation(study: Artifact) -> Iterator[str]:
    simulations, validation = study["simulations"], study["validation"]
    if not simulations.empty:
        name = simulations.setting.where(simulations.case == "", simulations.setting + ", " + simulations.case)
        times = simulations.assign(setting=name).groupby(["clients", "setting"], sort=False).epoch_seconds.mean()
        wide = times.unstack("clients")
        shown = sorted(wide.columns)[:6]
        rows = [(str(s), *(text.seconds(wide.loc[s, c]) for c in shown)) for s in wide.index[:_MOST_ROWS]]
        yield from columns([("predicted round", *(f"{c:,} clients" for c in shown)), *rows])
    rounds = validation[validation.quantity == "round"].drop_duplicates(["setting", "predicted", "measured"])
    for row in rounds.head(4).itertuples():  # every simulated link repeats them
        yield _cut(
            f"own run, {row.setting}: predicted {text.seconds(row.predicted)}, measured "
            f"{text.seconds(row.measured)} ({100 * row.error:+.0f} %)"
        )


def _files(path: Path) -> Iterator[str]:
    report = path.with_name("report.html")
    if report.is_file():
        yield f"report  {report}"
    yield f"data    {path}"


def _recommendation(sentences: pd.DataFrame) -> Iterator[str]:
    import textwrap

    chosen = sentences[sentences.kind == "choice"]
    for problem, sentence in zip(chosen.problem, chosen.sentence, strict=True):
        yield from textwrap.wrap(f"{problem}: {sentence}" if problem else sentence, WIDTH)
