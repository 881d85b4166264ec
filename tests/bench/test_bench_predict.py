"""The bench of predictions: what it predicts from known costs, and one small run over MPI."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fedbound.bench import predict
from fedbound.bench.predict import Measured, Setting
from fedbound.bench.rows import find
from fedbound.errors import InputError

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
NOTHING = dict.fromkeys(("encode", "load", "decode", "aggregate", "downlink"), 0.0)
PLAIN = {"up": 4e6, "down": 4e6, "raw": 4e6}
PROFILED = Setting("profiled", (1.0,) * 2, (4.0,) * 2)  # 1 s down, 1 s of work, 1 s up


def test_a_setting_like_the_profiled_one_takes_as_long() -> None:
    """3 s are explained; what is measured beyond them is put on every silo."""
    found = Measured(3.25, np.full(2, 3.25), NOTHING, PLAIN)
    seconds, arrivals = predict.predict(PROFILED, PROFILED, found)
    assert seconds == pytest.approx(3.25)
    np.testing.assert_allclose(arrivals, 3.25)


def test_held_out_settings_follow_from_the_costs() -> None:
    found = Measured(3.25, np.full(2, 3.25), NOTHING, PLAIN)
    other = Setting("other", (0.5,) * 4, (4.0,) * 4, server=8.0, values=2_000_000)
    # 8 MB each way at 2 MB/s: 4 s down and 4 s up; 2 s where nobody shares
    assert predict.predict(other, PROFILED, found)[0] == pytest.approx(8.75)
    assert predict.predict(other, PROFILED, found, free=True)[0] == pytest.approx(4.75)
    dear = dataclasses.replace(found, costs={**NOTHING, "encode": 0.1, "decode": 0.02})
    seconds, _ = predict.predict(other, PROFILED, dear)
    # explained now: 3 + 0.1 + 2 * 0.02 of 3.25 s; twice the values cost twice as much, and four updates are decoded
    assert seconds == pytest.approx(8.5 + 0.11 + 0.2 + 4 * 0.04)


def test_rows_and_table(tmp_path: Path) -> None:
    measured = Measured(2.0, np.array([1.0, 2.0]), NOTHING, PLAIN)
    case = Setting("case", (1.0,), (1.0,))
    rows = predict._rows(case, (2.1, np.array([1.1, 2.0])), (1.0, np.array([1.0, 1.0])), measured)
    rows += predict._summary(rows)
    assert find(rows, "error", "case") == pytest.approx(0.05)
    assert find(rows, "arrival_error_mean", "case") == pytest.approx(0.05)
    assert find(rows, "worst absolute no_contention_error", "all") == pytest.approx(0.5)
    assert "+5.0 %" in predict.table(rows)
    predict.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_held_out_settings_are_not_profiled() -> None:
    profiled = {dataclasses.replace(one, name="") for one in predict.PROFILED.values()}
    assert not profiled & {dataclasses.replace(one, name="") for one in predict.HELD_OUT}
    assert set(predict._QUICK) <= {one.name for one in predict.HELD_OUT}


def test_without_mpiexec_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *a, **k: None)
    with pytest.raises(InputError, match="needs mpiexec"):
        predict.measure(PROFILED)


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra 'mpi'")
@pytest.mark.parametrize("codec", ["none", "ebq"])
def test_over_mpi_no_round_is_faster_than_its_links(codec: str) -> None:
    """Bytes, and what the sleeps and buckets (each with a burst of 30 ms) allow at least."""
    setting = Setting("small", (0.2, 0.05), (8.0, 4.0), server=6.0, values=100_000, codec=codec, rounds=2)
    found = predict.measure(setting)
    assert found.bytes["raw"] == 400_000
    assert found.bytes["up"] > 400_000 if codec == "none" else found.bytes["up"] < 200_000
    least = 0.2 + (found.bytes["up"] + found.bytes["down"]) / 8e6 - 0.07
    assert found.arrivals[0] > least
    assert found.seconds >= found.arrivals.max() > 0.2
    assert math.isfinite(found.costs["encode"])
