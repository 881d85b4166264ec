"""The report's tables: which columns of study.h5 the page shows, how, and as what HTML. All text is escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from fedbound.artifacts import Artifact, Column, Table
from fedbound.report import text

_MOST_ROWS = 200
_ONCE = ("validation", "validation_parts")  # one run's, repeated for every link that is simulated: shown once

Writer = Callable[[float], str]


def _signed(value: float) -> str:
    return text.points(value)


def _percent(value: float) -> str:
    return text.percent(value)


def _count(value: float) -> str:
    return f"{int(value):,}"


def _known(value: float) -> str:
    return _count(value) if value >= 0 else "–"


# The columns that the page shows of each table, and how; the rest is in study.h5 and the CSV files.
_SHOWN: dict[str, tuple[str, dict[str, Writer | None]]] = {
    "pareto": (
        "All settings",
        {
            "setting": None,
            "accuracy": _percent,
            "worst_silo": _percent,
            "bytes": text.size,
            "drop": _signed,
            "drop_upper": _signed,
            "worst_silo_drop": _signed,
            "epsilon": text.number,
            "seeds": _count,
            "front": lambda value: "yes" if value else "no",
            "round_seconds": text.seconds,
            "predicted_seconds": text.seconds,
            "reason": None,
        },
    ),
    "settings": (
        "Settings over their seeds",
        {
            "setting": None,
            "bound_value": text.number,
            "seeds": _count,
            "accuracy": _percent,
            "accuracy_sd": _percent,
            "worst_silo": _percent,
            "spread": _percent,
            "bytes_up": text.size,
            "bytes_down": text.size,
            "ratio_up": text.number,
            "ratio_both": text.number,
            "violations": _count,
            "round_seconds": text.seconds,
        },
    ),
    "comparisons": (
        "Against the uncompressed run of the same seed",
        {
            "setting": None,
            "baseline": None,
            "seeds": _count,
            "drop": _signed,
            "drop_sd": _signed,
            "drop_upper": _signed,
            "worst_silo_drop": _signed,
            "spread_difference": _signed,
            "ratio_up": text.number,
            "ratio_both": text.number,
            "saving": text.number,
            "round_seconds": text.seconds,
            "baseline_round_seconds": text.seconds,
        },
    ),
    "decision": (
        "Decisions",
        {
            "setting": None,
            "algorithm": None,
            "mode": None,
            "scale": text.number,
            "refused": text.number,
            "tolerance": text.number,
            "mean_drop": _signed,
            "upper_drop": _signed,
            "upper_test": _signed,
            "seeds": _count,
            "probes": _count,
            "bytes": text.size,
            "seconds": text.seconds,
            "privacy": None,
        },
    ),
    "private_training": (
        "Private training: what each epsilon leaves",
        {
            "setting": None,
            "mechanism": None,
            "epsilon": text.number,
            "audited": text.number,
            "audit_cap": text.number,
            "delta": text.number,
            "accuracy": _percent,
            "accuracy_sd": _percent,
            "bits": text.number,
            "seeds": _count,
            "unit": None,
            "adjacency": None,
            "trust": None,
            "sampling": None,
            "accountant": None,
        },
    ),
    "mechanisms": (
        "Mechanisms by error, within the report's trust and bits",
        {
            "target_epsilon": text.number,
            "norm": None,
            "rank": lambda value: f"{value:.0f}" if value else "–",
            "setting": None,
            "mse_scaled": text.number,
            "over_floor": text.number,
            "bits": text.number,
            "gain": text.number,
            "trust": None,
            "adjacency": None,
            "against": None,
        },
    ),
    "privacy": (
        "Mechanisms, all figures",
        {
            "setting": None,
            "norm": None,
            "target_epsilon": text.number,
            "epsilon": text.number,
            "delta": text.number,
            "epsilon_pld": text.number,
            "epsilon_rdp": text.number,
            "audited": text.number,
            "audited_gaussian": text.number,
            "audit_claim": text.number,
            "mse": text.number,
            "mse_closed": text.number,
            "floor": text.number,
            "bits": text.number,
            "accountant": None,
            "unit": None,
            "adjacency": None,
            "trust": None,
            "sampling": None,
        },
    ),
    "simulations": (
        "Simulations",
        {
            "setting": None,
            "scheduler": None,
            "case": None,
            "clients": _count,
            "round_seconds": text.seconds,
            "target_seconds": text.seconds,
            "up_bytes": text.size,
            "down_bytes": text.size,
            "uplink_utilisation": _percent,
            "downlink_utilisation": _percent,
            "server_bandwidth": text.number,
            "client_bandwidth": text.number,
            "engine": None,
        },
    ),
    "validation": (
        "Predicted against measured",
        {
            "setting": None,
            "scheduler": None,
            "clients": _count,
            "quantity": None,
            "predicted": text.seconds,
            "measured": text.seconds,
            "error": _percent,
            "no_contention": text.seconds,
        },
    ),
    "link_advice": ("Does compressing pay?", {"setting": None, "link": None, "pays": _count, "advice": None}),
    "links": (
        "A round on each link",
        {
            "setting": None,
            "link": None,
            "silo": _count,
            "break_even": text.number,
            "plain_seconds": text.seconds,
            "coded_seconds": text.seconds,
            "pipelined_seconds": text.seconds,
            "hidden": _percent,
            "device_idle": _percent,
            "processor_idle": _percent,
            "link_idle": _percent,
            "waits_seconds": text.seconds,
        },
    ),
    "validation_parts": (
        "Where the prediction of the own run misses, part by part",
        {
            "setting": None,
            "scheduler": None,
            "part": None,
            "predicted": text.seconds,
            "measured": text.seconds,
            "difference": text.seconds,
        },
    ),
    "profile_costs": (
        "Costs per silo",
        {
            "setting": None,
            "silo": _count,
            "samples": _count,
            "steps": _count,
            "train_seconds": text.seconds,
            "alone_seconds": text.seconds,
            "evaluate_seconds": text.seconds,
            "encode_seconds": text.seconds,
            "decode_seconds": text.seconds,
            "latency": text.seconds,
            "bandwidth": text.rate,
        },
    ),
    "profile_codec": (
        "Codecs on real updates",
        {
            "setting": None,
            "block": None,
            "stage": None,
            "values": _count,
            "bound": text.number,
            "ratio": text.number,
            "entropy_ratio": text.number,
            "encode_rate": text.rate,
            "decode_rate": text.rate,
        },
    ),
    "jobs": (
        "All jobs",
        {
            "stage": None,
            "stem": None,
            "slurm_job": None,
            "cores": _count,
            "seconds": text.seconds,
            "cpu_efficiency": _percent,
            "memory": text.size,
            "memory_efficiency": _percent,
        },
    ),
    "scenarios": (
        "All scenarios",
        {
            "stage": None,
            "setting": None,
            "seed": _known,
            "mechanism": None,
            "epsilon": text.number,
            "clients": _known,
            "scheduler": None,
            "status": None,
            "stem": None,
        },
    ),
}


def show(study: Artifact, *names: str) -> str:
    """The named tables of study.h5 as the page shows them, without those that have no rows."""
    return "".join(_table(name, *_SHOWN[name], study.tables[name]) for name in names if length(study.tables[name]))


def length(table: Table) -> int:
    """Rows of a table."""
    return len(next(iter(table.values())).values)


def _table(name: str, heading: str, writers: dict[str, Writer | None], table: Table) -> str:
    """A sortable table of the columns in `writers`; a text that all rows share is said once, below."""
    writers = {key: writer for key, writer in writers.items() if key in table}  # a study of before may lack columns
    shared = {key: _shared(table[key]) for key, writer in writers.items() if not writer}
    shown = {k: writer for k, writer in writers.items() if shared.get(k) is None and not _unknown(table[k])}
    rows = _distinct(table, shown) if name in _ONCE else range(length(table))
    head = "".join(_head(key, table[key], writer) for key, writer in shown.items())
    chosen: Sequence[int] = table["chosen"].values.tolist() if "chosen" in table else []
    body = "".join(
        f"<tr{' class=chosen' if row < len(chosen) and chosen[row] else ''}>"
        + "".join(_cell(table[key].values[row], writer) for key, writer in shown.items())
        + "</tr>\n"
        for row in rows[:_MOST_ROWS]
    )
    same = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in shared.items() if value)
    more = f"The first {_MOST_ROWS} of {len(rows):,} rows; all" if len(rows) > _MOST_ROWS else "All"
    return (
        f'<h3>{escape(heading)}</h3><div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
        f'</table></div><p class="note">{escape(f"In every row {same}. " if same else "")}{more} columns and rows: '
        f"table <code>{name}</code> in study.h5, <code>tables/{name}.csv</code>.</p>"
    )


def _distinct(table: Table, keys: Iterable[str]) -> list[int]:
    """Rows, without those that equal an earlier one in all of `keys`."""
    first: dict[tuple[Any, ...], int] = {}
    for row, values in enumerate(zip(*(table[key].values.tolist() for key in keys), strict=True)):
        first.setdefault(values, row)
    return list(first.values())


def _shared(column: Column) -> str | None:
    """The one text of all rows where that is empty, or long enough to be in the way; None otherwise."""
    texts = set(column.values)
    one = texts.pop()
    return one if not texts and (not one or (len(one) > 12 and len(column.values) > 1)) else None


def _unknown(column: Column) -> bool:
    """Whether no row has this figure, as epsilon in a study without privacy."""
    return column.values.dtype.kind == "f" and bool(np.isnan(column.values).all())


def _head(key: str, column: Column, writer: Writer | None) -> str:
    kind = "" if writer else ' class="text"'
    unit = _unit(column.field.unit, writer)
    small = f"<small>{escape(unit)}</small>" if unit else ""
    label = escape(key.replace("_", " "))
    return (
        f'<th{kind} scope="col" title="{escape(column.field.description)}">'
        f'<button type="button">{label}</button>{small}</th>'
    )


def _unit(unit: str, writer: Writer | None) -> str:
    """The unit under a heading, where the cells do not write it themselves."""
    return {"percentage point": "points"}.get(unit, unit) if writer in (_signed, text.number) and unit != "1" else ""


def _cell(value: Any, writer: Writer | None) -> str:
    shown = writer(value) if writer else str(value)
    # A long name without spaces (a stem) may break anywhere; words may not.
    kind = "" if writer else ' class="text long"' if len(shown) > 40 and " " not in shown else ' class="text"'
    return f'<td{kind} data-v="{escape(str(value))}">{escape(shown)}</td>'
