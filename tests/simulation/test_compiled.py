"""The compiled engine against the pure Python one: the same numbers to the last bit, whatever happens."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation_cases import lognormal_star, random_case, random_star, sync

from fedbound.federation import schedulers
from fedbound.simulation import simulate
from fedbound.simulation.engines import fluid

compiled = pytest.importorskip("fedbound.simulation.compiled")


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.floats(math.log(2), math.log(300)),
    name=st.sampled_from(["sync", "async", "buffered", "compass"]),
    share=st.sampled_from([None, None, 0.0, 0.2]),
    away=st.booleans(),
    changes=st.booleans(),
)
def test_same_bits(seed: int, size: float, name: str, share: float | None, away: bool, changes: bool) -> None:
    count = round(math.exp(size))
    case = random_case(seed, count, name, None if share is None else max(1, round(share * count)), away, changes)
    python, machine = case.run(fluid.Fluid), case.run(compiled.Compiled)
    assert python.rounds == machine.rounds
    np.testing.assert_array_equal(python.tasks, machine.tasks)
    for key in ("seconds", "events", "departures", "up_bytes", "down_bytes", "client_utilisation"):
        assert getattr(python, key) == getattr(machine, key), key


def test_equal_clients_end_together() -> None:
    workload, star = lognormal_star(500)
    workload = dataclasses.replace(workload, train_seconds=np.full(500, 3.0))
    star = dataclasses.replace(star, client_bandwidth=np.full(500, 1e7))
    python, machine = (simulate(workload, star, sync(2), engine) for engine in (fluid.Fluid, compiled.Compiled))
    assert python.rounds == machine.rounds


def test_heaps_are_cleared_of_what_is_outdated() -> None:
    """Many more transfers than a heap has room for, on few clients: the arrays neither overflow nor go stale."""
    workload, star = random_star(7, 5)
    ends = [
        simulate(workload, star, schedulers.get("async", rounds=2000), engine).seconds
        for engine in (fluid.Fluid, compiled.Compiled)
    ]
    assert ends[0] == ends[1]


def test_many_clients_are_given_the_compiled_engine() -> None:
    assert isinstance(fluid.make(lognormal_star(100)[1]), fluid.Fluid)
    assert isinstance(fluid.make(lognormal_star(20_000)[1]), compiled.Compiled)
