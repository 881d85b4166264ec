"""Held-out samples that change from probe to probe: cross-fitting.

A few validation samples are a draw of their own: a bound that keeps these very samples may lose others, and more seeds
do not help where all are judged on the same ones. So each seed of the probes holds out another part of what a silo has
beside its test samples, as many as its validation samples are, and trains on the rest. Seeds then differ in both draws,
and all together look at every sample once. Test samples are never touched.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedbound.data import Federation, SiloData, Split


def count(federation: Federation) -> int:
    """Folds that there are: how many times all validation parts fit into all samples that are not for the test."""
    held = sum(len(silo.validation) for silo in federation.silos)
    rest = sum(len(silo.train) for silo in federation.silos if len(silo.validation))
    return max(1, round((held + rest) / held)) if held else 1


def rotated(federation: Federation, fold: int) -> Federation:
    """The federation whose silos hold out their `fold`-th part; fold 0 is the study's own split.

    Parts of a silo are of one size; those of a small silo may overlap by a sample where its own number does not divide.
    """
    if not fold:
        return federation
    folds = count(federation)
    return replace(federation, silos=[_rotated(silo, fold, folds) for silo in federation.silos])


def held_out(federation: Federation) -> Split:
    """What all silos hold out, silo by silo."""
    parts = [silo.validation for silo in federation.silos if len(silo.validation)]
    return Split(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def _rotated(silo: SiloData, fold: int, folds: int) -> SiloData:
    size = len(silo.validation)
    if not size:
        return silo
    x, y = (np.concatenate([getattr(part, key) for part in (silo.validation, silo.train)]) for key in ("x", "y"))
    start = round(fold * (len(y) - size) / (folds - 1))
    held = slice(start, start + size)
    rest = np.r_[0 : held.start, held.stop : len(y)]
    return SiloData(Split(x[rest], y[rest]), Split(x[held], y[held]), silo.test)
