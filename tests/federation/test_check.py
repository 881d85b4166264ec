"""What cannot work is refused before a job is submitted, with key and mend."""

from __future__ import annotations

import pytest

from fedbound import plan, study
from fedbound.errors import InputError
from fedbound.federation import check

DIGITS = {"silos": 3}


def scenarios(**parts: object) -> list[dict]:
    base = {"study": "t", "data": DIGITS, "model": {"name": "mlp", "hidden": [8]}, "exchange": {"codec": "none"}}
    parsed = study.parse({**base, **parts})
    return [job.scenario for job in plan.make(parsed).jobs["train"].values()]


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"scheduler": {"name": "sync", "quorum": 5}}, r"quorum: 5 is refused: a round has 3 of the 3 silos"),
        ({"algorithm": "fedbuff", "scheduler": {"name": "buffered", "buffer": 9}}, r"buffer: 9 is refused"),
        ({"on_failure": "drop", "least_silos": 4}, r"training\.least_silos: 4 is refused: there are 3 silos"),
    ],
)
def test_numbers_that_can_never_be_reached(training, said):
    with pytest.raises(InputError, match=said):
        check.settings(scenarios(training=training))
    check.settings(scenarios(training={"scheduler": {"name": "sync", "quorum": 3}, "least_silos": 3}))


def test_one_value_of_a_sweep_is_enough():
    with pytest.raises(InputError, match="quorum: 4 is refused"):
        check.settings(scenarios(training={"scheduler": ["sync", {"name": "sync", "quorum": 4}]}))


def test_batch_normalisation_under_admm():
    model = {"name": "resnet", "norm": "batch", "width": 4, "stages": 1}
    found = scenarios(model=model, training={"algorithm": "iiadmm"})
    with pytest.raises(InputError, match="batch norm"):
        check.models(found)
    check.models(scenarios(training={"algorithm": "iiadmm"}))
