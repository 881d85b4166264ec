"""Columns in one line each, and those that several tables share."""

from __future__ import annotations

from fedbound.artifacts import Field


def real(unit: str, description: str, measured: bool = False) -> Field:
    return Field("float64", unit, description, measured)


def whole(unit: str, description: str, measured: bool = False) -> Field:
    return Field("int64", unit, description, measured)


def text(description: str, measured: bool = False) -> Field:
    return Field("str", "", description, measured)


def seconds(description: str) -> Field:
    return real("s", description, measured=True)


FAIRNESS = {
    "accuracy": real("1", "test accuracy over all silos' test samples"),
    "loss": real("nat", "mean test cross-entropy over all silos' test samples"),
    "accuracy_mean": real("1", "mean over silos of their own test accuracy"),
    "accuracy_sd": real("1", "standard deviation over silos of their own test accuracy"),
    "accuracy_variance": real("1", "variance over silos of their own test accuracy: accuracy_sd squared"),
    "accuracy_min": real("1", "the worst silo's test accuracy"),
    "accuracy_worst10": real("1", "mean test accuracy of the worst 10 % of silos (at least one)"),
    "jain": real("1", "Jain's fairness index of the silos' test accuracies: (sum a)^2 / (K sum a^2)"),
}
