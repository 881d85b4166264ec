from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fedbound.bench import private_training as bench


@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3)])
def test_gradient_is_the_difference_quotient(sizes):
    rng = np.random.default_rng(0)
    model = bench.Model(sizes)
    weights = model.start(rng) + 0.1 * rng.standard_normal(len(model.start(rng)))
    inputs, labels = rng.standard_normal((7, 5)), rng.integers(0, 3, 7)

    def loss(at):
        logits = model.logits(at, inputs)
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(7), labels]))

    gradient = model.gradient(weights, inputs, labels)
    for index in rng.integers(0, len(weights), 10):
        step = np.zeros_like(weights)
        step[index] = 1e-6
        assert gradient[index] == pytest.approx((loss(weights + step) - loss(weights - step)) / 2e-6, abs=1e-6)


def test_digits_are_split_as_the_accounting_counts_them():
    (inputs, labels), (test_inputs, _) = bench._digits(0)
    assert (len(inputs), len(labels), len(test_inputs)) == (bench.RECORDS, bench.RECORDS, 360)


def test_a_short_run_learns_and_six_silos_do_not():
    silo = dataclasses.replace(bench.CASES[0], rounds=5, server=5.0, rate=2.0)
    plain = bench.train(silo, None, 0)
    private = bench.train(silo, bench.calibrated(silo, "skellam", 8.0), 0)
    assert plain.accuracy > 0.7
    assert private.accuracy > 0.6
    assert private.epsilon == pytest.approx(8.0, rel=1e-3)
    assert plain.epsilon == math.inf
    six = dataclasses.replace(bench.CASES[2], rounds=2, steps=1)
    assert bench.train(six, bench.calibrated(six, "gaussian", 8.0), 0).accuracy < 0.3


def test_table_and_plot(tmp_path):
    rows = []
    for case in bench.CASES:
        found = [bench.Outcome(0.9, 4.0, 16.0), bench.Outcome(0.8, 4.0, 16.0)]
        rows += bench._rows(case, "none", math.inf, found, lambda line: None)
        rows += bench._rows(case, "skellam", 4.0, found, lambda line: None)
    assert "85.0  7.1        4                   16" in bench.table(rows)
    bench.plot(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
