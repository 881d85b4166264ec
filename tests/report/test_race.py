"""Which strategy is first, in words."""

from __future__ import annotations

import math

import pandas as pd

from fedbound.report import race


def frame(rows: list[tuple[int, float, str, str, float]]) -> pd.DataFrame:
    columns = ["clients", "client_bandwidth", "scheduler", "setting", "target_seconds"]
    return pd.DataFrame(rows, columns=columns).assign(server_bandwidth=1000.0, target=0.9)


def test_the_first_and_by_how_much() -> None:
    found = race.sentences(
        frame(
            [
                (10, 100, "sync", "none", 60.0),
                (10, 100, "async", "none", 20.0),
                (10, 100, "buffered", "none", 30.0),
                (10, 100, "compass", "none", 40.0),
                (10, 100, "compass", "ebq", 80.0),
                (10, 10, "sync", "none", 5.0),
                (10, 10, "async", "none", math.inf),
                (99, 10, "sync", "none", 4.0),
                (99, 10, "async", "ebq", 5.0),
            ]
        )
    )
    assert found == [
        "10 clients, links of 100 Mbit/s: async (none) reaches 90.0 % first, in 20 s; "
        "buffered (none) takes 1.5 times as long; compass (none) takes 2 times as long; "
        "compass (ebq) takes 4 times as long and is last.",
        "99 clients, links of 10 Mbit/s: sync (none) reaches 90.0 % first, in 4 s; "
        "async (ebq) takes 1.25 times as long.",
    ]
    assert race.html(frame([(10, 10, "sync", "none", 5.0)])) == ""
    assert race.html(frame([(9, 1, "<a>", "", 1.0), (9, 1, "b", "", 2.0)])).count("&lt;a&gt;") == 1
