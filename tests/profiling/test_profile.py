"""The profile stage: what it fits, whom it asks, and one whole profile in this process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbound import artifacts, schemas, study
from fedbound.profiling import fits, nodes, probes, stage, watch


@given(st.floats(1e-5, 1), st.floats(1e-12, 1e-6))
def test_a_line_is_found_again(fixed: float, each: float) -> None:
    sizes = [64, 4096, 65536, 1 << 20, 1 << 23]
    found = fits.line({size: [fixed + each * size] * 3 for size in sizes})
    assert found.fixed == pytest.approx(fixed, rel=1e-6)
    assert found.each * sizes[-1] == pytest.approx(each * sizes[-1], rel=1e-6, abs=1e-6 * fixed)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-6)


def test_no_part_of_a_line_is_negative() -> None:
    """Times that fall with the size have no time per byte; times in proportion to it no fixed part."""
    falling = fits.line({10: [2.0], 1000: [1.0]})
    assert falling.each <= 1e-15
    assert 1.0 < falling.fixed < 2.0
    steep = fits.line({1000: [1.0], 2000: [2.5], 4000: [7.0]})
    assert steep.fixed <= 1e-9
    assert 1e-3 < steep.each < 2e-3
    assert fits.line({64: [0.5, 0.7, 0.6]}).seconds(64) == pytest.approx(0.6)


def test_outliers_do_not_move_the_line() -> None:
    samples = {size: [1e-4 + 1e-9 * size] * 4 + [10.0] for size in (64, 10**6, 10**7)}
    assert fits.line(samples).each == pytest.approx(1e-9)


def test_the_table_of_a_line_adds_up() -> None:
    rows = fits.rows("server", fits.line({64: [1e-3], 10**6: [3e-3], 10**7: [9e-3]}))
    for row in rows:
        assert row["fitted"] == pytest.approx(row["fixed_seconds"] + row["byte_seconds"] * row["bytes"])
        assert row["measured"] == pytest.approx(row["fitted"] * (1 + row["residual"]))
    assert set(rows[0]) == set(schemas.PROFILE_MESSAGES.fields)


def test_silos_alone_are_alone_on_their_node() -> None:
    """Three silos on node 0, one on node 1: three waves, no two of one node in any."""
    where = {0: (0, 1), 1: (0, 2), 2: (1, 3), 3: (0, 2)}
    assert probes._waves(where) == [[0, 2], [1], [3]]


@pytest.mark.parametrize(
    ("ranks", "cores", "tried"), [(1, 2, [1]), (4, 2, [1, 2, 3, 4]), (20, 6, [1, 2, 4, 6, 7, 8, 16, 20])]
)
def test_numbers_of_ranks_around_the_cores(ranks: int, cores: int, tried: list[int]) -> None:
    assert probes._levels(ranks, cores) == tried


def test_every_two_nodes_meet_once() -> None:
    ranks = [nodes.Rank(rank, node, "a", 2, f"n{node}") for rank, node in enumerate([0, 0, 1, 2, 2, 2])]
    assert nodes._meetings(ranks) == [(0, 0, 0, 1), (2, 2, 3, 4), (0, 1, 0, 2), (0, 2, 0, 3), (1, 2, 2, 3)]


def test_samples_belong_to_the_rounds_that_they_are_from() -> None:
    """Rounds end at 10, 20 and 30; samples of two nodes, the last after the end."""
    samples = np.array([[node, t, 0.5, np.nan, np.nan, 0, 0] for node in (1, 0) for t in (5, 15, 16, 25, 35)], float)
    rows = watch.rows(samples, [10, 20, 30])
    assert [(row["node"], row["round"], row["time"]) for row in rows] == [
        (node, round_, t) for node in (0, 1) for round_, t in ((0, 0), (1, 10), (1, 11), (2, 20))
    ]
    assert watch.rows(samples[:0], [10]) == []


def test_a_busy_process_is_seen() -> None:
    with watch.Watch(3, interval=0.02) as watching:
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
    found = watching.array()
    assert len(found) >= 3
    assert (found[:, 0] == 3).all()
    assert np.nanmax(found[:, 2]) > 0


def scenario(silos: int, codec: str) -> study.ProfileScenario:
    exchange = {"codec": codec} if codec == "none" else {"codec": codec, "bound": 0.1}
    model = {"name": "mlp", "hidden": [8]}
    profiling = {"rounds": 2, "repeats": 2, "message_sizes": [64, 65536]}
    parsed = study.parse(
        {"study": "p", "data": {"silos": silos}, "model": model, "exchange": exchange, "profiling": profiling}
    )
    training = parsed.training[0]
    return study.ProfileScenario(
        study="p",
        data=parsed.data[0],
        model=parsed.model[0],
        training=study.LocalTraining(**{key: getattr(training, key) for key in study.LocalTraining.model_fields}),
        exchange=parsed.exchange[0],
        profiling=parsed.profiling[0],
    )


def test_a_whole_profile_keeps_its_samples(tmp_path: Path) -> None:
    made = stage.run(scenario(2, "none"), {}, transport="local")
    assert made is not None
    artifacts.write(tmp_path / "profile.h5", made)
    found = artifacts.read(tmp_path / "profile.h5", "profile")
    assert set(found) == set(schemas.TABLES["profile"])
    sharing = found["sharing"]
    assert sharing.groupby(["kind", "silo"]).size().to_dict() == {("alone", 0): 3, ("alone", 1): 3, ("shared", 0): 3}
    assert (sharing.working == 1).all()  # one process: nobody works beside another
    costs = found["costs"].set_index("silo")
    alone = sharing[sharing.kind == "alone"].groupby("silo").train_seconds.median()
    np.testing.assert_allclose(costs.alone_seconds, alone)
    times = found["codec_times"].groupby(["block", "stage"])
    assert (times.size() == 2).all()
    codec = found["codec"].set_index(["block", "stage"])
    np.testing.assert_allclose(codec.encode_rate, 4 * codec["values"] / times.encode_seconds.median()[codec.index])
    assert set(found["messages"].what) == {"server", "link to rank 1", "link to rank 2", "all at once"}
    server = found["server"].iloc[0]
    assert 0 < server.message_byte_seconds < 1e-3
    assert server.round_seconds == pytest.approx(found["rounds"].seconds.median())
    assert sorted(found["silos"]["round"].unique()) == [1, 2]
    assert (found["silos"].arrival_seconds > found["silos"].train_seconds).all()
