"""Folds: every sample is held out once and trained on otherwise, and test samples are never touched."""

from __future__ import annotations

import numpy as np
import pytest

from fedbound import data, study
from fedbound.calibration import folds


@pytest.fixture(scope="module")
def federation() -> data.Federation:
    """Samples that are told apart by their first value."""
    found = data.federation(study.Data(silos=3))
    numbered = []
    for silo in found.silos:
        at, parts = 0, []
        for part in (silo.train, silo.validation, silo.test):
            x = part.x.copy()
            x.reshape(len(x), -1)[:, 0] = np.arange(at, at + len(x))
            at += len(x)
            parts.append(data.Split(x, part.y))
        numbered.append(data.SiloData(*parts))
    return data.Federation(numbered, found.shape, found.classes, found.name)


def names(split: data.Split) -> list[float]:
    return split.x.reshape(len(split), -1)[:, 0].tolist()


def test_folds_hold_out_different_samples_and_train_on_all_others(federation):
    count = folds.count(federation)
    assert count == 5  # 60 % and 15 %
    turned = [folds.rotated(federation, fold) for fold in range(count)]
    for number, own in enumerate(federation.silos):
        pool = sorted(names(own.train) + names(own.validation))
        held = [names(one.silos[number].validation) for one in turned]
        assert {len(part) for part in held} == {len(own.validation)}
        different = len({name for part in held for name in part})
        assert count * len(own.validation) - count < different <= len(pool)
        for one, part in zip(turned, held, strict=True):
            assert sorted(names(one.silos[number].train) + part) == pool
            assert one.silos[number].test is own.test


def test_fold_0_is_the_studys_own_split(federation):
    assert folds.rotated(federation, 0) is federation


def test_labels_go_with_their_samples(federation):
    label = {name: y for part in (federation.silos[0].train, federation.silos[0].validation)
             for name, y in zip(names(part), part.y.tolist(), strict=True)}  # fmt: skip
    turned = folds.rotated(federation, 2).silos[0]
    assert [label[name] for name in names(turned.validation)] == turned.validation.y.tolist()
    assert [label[name] for name in names(turned.train)] == turned.train.y.tolist()


def test_a_silo_without_validation_samples_is_left_alone():
    federation = data.federation(study.Data(silos=3, validation=0))
    assert folds.count(federation) == 1
    assert folds.rotated(federation, 3).silos[1] is federation.silos[1]
