"""From what was measured to what things cost: the tables that simulations read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedbound.federation.server import Server
from fedbound.profiling import fits
from fedbound.profiling.fits import Line

Rows = list[dict[str, Any]]
SERVER, TOGETHER = "server", "all at once"
_WORK = ("train_seconds", "evaluate_seconds", "model_seconds", "encode_seconds")
_MEDIANS = (*_WORK, "other_seconds", "decode_seconds")
_ALONE = {"alone_seconds": "train_seconds", "alone_evaluate_seconds": "evaluate_seconds"} | {
    "alone_encode_seconds": "encode_seconds"
}


def silo_rows(server: Server) -> Rows:
    """Rows of the table PROFILE_SILOS: the measured rounds, warm-up left out, one row per round and silo."""
    rounds = {row["round"]: row for row in server.records.rows["rounds"]}
    rows = sorted(server.records.rows["silos"], key=lambda row: (row["round"], row["silo"]))
    share = 1 / server.transport.silos
    return [
        {
            "round": row["round"] - 1,
            "silo": row["silo"],
            "steps": row["steps"],
            "raw_bytes": row["raw_up"],
            "up_bytes": row["bytes_up"],
            "down_bytes": row["bytes_down"],
            **{key: row[key] for key in (*_WORK, "decode_seconds", "transfer_seconds", "arrival_seconds")},
            "other_seconds": max(0.0, row["busy_seconds"] - sum(row[key] for key in _WORK)),
            "aggregate_seconds": rounds[row["round"]]["aggregate_seconds"] * share,
        }
        for row in rows
        if row["round"] > 1
    ]


def round_rows(server: Server) -> Rows:
    """Rows of the table PROFILE_ROUNDS."""
    keys = ("seconds", "wait_seconds", "downlink_seconds", "decode_seconds", "aggregate_seconds")
    rows = [row for row in server.records.rows["rounds"] if row["round"] > 1]
    return [{"round": row["round"] - 1, **{key: row[key] for key in keys}} for row in rows]


def lines(link: Rows, pairs: Rows, together: Rows) -> dict[str, Line]:
    """The time of a message in its size: of the server's processor, of each link without it, and of raw MPI."""
    found = {SERVER: fits.line(fits.by_size(link, "server_seconds"))}
    for rank in sorted({row["rank"] for row in link}):
        own = [{**row, "rest": row["seconds"] - row["server_seconds"]} for row in link if row["rank"] == rank]
        found[link_name(rank)] = fits.line(fits.by_size(own, "rest"))
    found[TOGETHER] = fits.line(fits.by_size(together))
    for first, second in sorted({(row["first"], row["second"]) for row in pairs}):
        own = [row for row in pairs if (row["first"], row["second"]) == (first, second)]
        found[f"nodes {first} and {second}"] = fits.line(fits.by_size(own))
    return found


def link_name(rank: int) -> str:
    return f"link to rank {rank}"


def per_silo(server: Server, silos: Rows, alone: Rows, fitted: Mapping[str, Line], node: Callable[[int], int]) -> Rows:
    """Rows of the table PROFILE_COSTS."""
    samples = {row["silo"]: row["samples"] for row in server.records.rows["silos"]}
    rows = []
    for silo in range(server.transport.silos):
        own = [row for row in silos if row["silo"] == silo]
        lone = [row for row in alone if row["silo"] == silo]
        link = fitted[link_name(silo + 1)]
        rows.append(
            {
                "silo": silo,
                "node": node(silo),
                "samples": samples[silo],
                "steps": own[-1]["steps"],
                **{key: _median(own, key) for key in _MEDIANS},
                **{key: _median(lone, measured) for key, measured in _ALONE.items()},
                "latency": link.fixed,
                "bandwidth": 1 / link.each,
            }
        )
    return rows


def server_row(
    server: Server, silos: Rows, per_silo: Rows, fitted: Mapping[str, Line], ranks: int, cores: int
) -> dict[str, Any]:
    """The row of the table PROFILE_SERVER.

    The time of a message's byte is from the line over sizes. What a message costs whatever its size is from the line or
    from the rounds, whichever is more: there the server also keeps records.
    """
    rounds = round_rows(server)
    count = server.transport.silos
    work = [row["aggregate_seconds"] + row["decode_seconds"] for row in rounds]
    known = [row["wait_seconds"] + row["downlink_seconds"] + w for row, w in zip(rounds, work, strict=True)]
    other = [(row["seconds"] - k) / (2 * count) for row, k in zip(rounds, known, strict=True)]
    slowest = max(row["train_seconds"] + row["evaluate_seconds"] + row["encode_seconds"] for row in per_silo)
    overhead = [row["seconds"] - slowest - w for row, w in zip(rounds, work, strict=True)]
    size = float(np.mean([(row["up_bytes"] + row["down_bytes"]) / 2 for row in silos]))
    message = fitted[SERVER]
    return {
        "aggregate_seconds": _median(rounds, "aggregate_seconds") / count,
        "downlink_seconds": _median(rounds, "downlink_seconds"),
        "message_seconds": max(message.fixed, float(np.median(other)) - message.each * size),
        "message_byte_seconds": message.each,
        "bandwidth": _capacity(fitted, count),
        "round_seconds": _median(rounds, "seconds"),
        "round_overhead_seconds": max(0.0, float(np.median(overhead))),
        "ranks": ranks,
        "cores": cores,
    }


def _capacity(fitted: Mapping[str, Line], silos: int) -> float:
    """Bytes/s of the server's link: what a byte to every silo takes beyond the server's processor.

    Not more than all links together, nor less than one: then the processor, not the link, is what they share.
    """
    links = [1 / fitted[link_name(silo + 1)].each for silo in range(silos)]
    rest = fitted[TOGETHER].each - silos * fitted[SERVER].each
    return float(np.clip(silos / rest if rest > 0 else np.inf, max(links), sum(links)))


def _median(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.median([row[key] for row in rows]))
