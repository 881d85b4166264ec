"""The benches run, give flat rows, and write what they say."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from fedbound import artifacts
from fedbound import bench as benches
from fedbound.bench import codecs, exchange, rows
from fedbound.bench.rows import Row
from fedbound.cli import main


def test_every_bench_has_the_three_functions():
    for name in benches.BENCHES:
        module = benches.get(name)
        assert all(callable(getattr(module, key)) for key in ("run", "table", "plot"))


def test_unknown_bench_is_one_sentence(capsys):
    assert main(["bench", "codec"]) == 2
    assert "did you mean 'codecs'" in capsys.readouterr().err


def test_bench_codecs_small(tmp_path, monkeypatch, capsys):
    """The whole command on small arrays: rows on screen, as JSON, HDF5 and a picture."""
    real = codecs.draw
    monkeypatch.setattr(codecs, "draw", lambda kind, size: real(kind, 20_000))
    monkeypatch.setattr(codecs, "_SPARSE", ("laplace",))
    monkeypatch.setattr(codecs, "_TAILS", ("t5",))
    paths = {key: tmp_path / name for key, name in (("--json", "b.json"), ("--out", "b.h5"), ("--plot", "b.png"))}
    assert main(["bench", "codecs", "--quick", *(str(part) for pair in paths.items() for part in pair)]) == 0
    said = capsys.readouterr().out
    assert "t5, rel 0.01" in said
    listed = json.loads(paths["--json"].read_text())
    assert {key for row in listed for key in row} == {"bench", "case", "peer", "metric", "value", "unit"}
    assert (listed[0]["case"], listed[0]["metric"]) == ("machine", "processor")
    frame = artifacts.read(paths["--out"], "bench")["rows"]
    assert len(frame) == len(listed)
    errors = frame[frame.metric == "error_over_bound"].dropna(subset="value")
    assert len(errors) >= 20
    assert (errors.value <= 1).all()
    ours = frame[(frame.case == "laplace, 1 sd: ebq") & (frame.metric == "bits_per_value")].value.iloc[0]
    assert 1.0 < ours < 1.3
    assert paths["--plot"].read_bytes().startswith(b"\x89PNG")


def outcome(accuracy: float, size: int) -> exchange.Outcome:
    return exchange.Outcome(accuracy, 0.02, accuracy - 0.1, size // 2, size // 2)


def test_exchange_rows_by_hand():
    """Ratios are of mean totals, drops are paired by seed and in points, factors go from case to case."""
    found = {
        exchange.UNCOMPRESSED: [outcome(0.95, 1000), outcome(0.90, 1000), outcome(0.94, 1000)],
        exchange.PUBLISHED: [outcome(0.94, 600), outcome(0.89, 600), outcome(0.93, 600)],
        exchange.BOTH: [outcome(0.93, 200), outcome(0.90, 200), outcome(0.94, 200)],
    }
    made = exchange._rows("toy", found)
    case = f"toy: {exchange.BOTH}"
    assert rows.find(made, "ratio", case, exchange.UNCOMPRESSED) == pytest.approx(5)
    assert rows.find(made, "ratio", case, exchange.PUBLISHED) == pytest.approx(3)
    assert rows.find(made, "factor of downlink", case, exchange.PUBLISHED) == pytest.approx(3)
    assert rows.find(made, "drop", case, exchange.UNCOMPRESSED) == pytest.approx(2 / 3)
    sd = math.sqrt(((2 - 2 / 3) ** 2 + 2 * (2 / 3) ** 2) / 2)
    assert rows.find(made, "drop_upper", case, exchange.UNCOMPRESSED) == pytest.approx(2 / 3 + 2.92 * sd / 3**0.5, 1e-3)
    assert "downlink x3.00" in exchange.table(made)


def test_exchange_cases_differ_from_fedsz_to_ours_by_one_change_each():
    names = [case.name for case in exchange.CASES]
    chain = exchange.CASES[names.index(exchange.PUBLISHED) : names.index("ours, rel 0.2") + 1]
    assert [case.change for case in chain] == ["", "downlink", "coder", "delta", "bound", "error feedback"]
    for before, after in itertools.pairwise(chain):
        keys = before.exchange.keys() | after.exchange.keys()
        assert len([k for k in keys if before.exchange.get(k) != after.exchange.get(k)]) == 1


def test_rows_that_are_not_finite_become_null(tmp_path):
    rows.write_json(tmp_path / "x.json", [Row("b", "c", "", "m", math.nan, "1")])
    assert json.loads((tmp_path / "x.json").read_text())[0]["value"] is None
