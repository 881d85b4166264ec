"""What a study asks of its federated runs, looked at before any job is submitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedbound import study
from fedbound.artifacts import canonical
from fedbound.errors import InputError
from fedbound.federation import schedulers


def settings(scenarios: Iterable[Mapping[str, Any]]) -> None:
    """Look at the numbers of train scenarios; without torch, so that a dry run stays quick.

    Raises:
        InputError: a scheduler can never have its quorum or buffer full, or more silos must live than there are.
    """
    for scenario in _different(scenarios, "training", "data"):
        training, silos = scenario["training"], int(scenario["data"]["silos"])
        options = dict(training["scheduler"])
        schedulers.get(options.pop("name"), rounds=training["rounds"], **options).check(silos)
        if training["least_silos"] > silos:
            raise InputError(
                f"training.least_silos: {training['least_silos']} is refused: there are {silos} silos; give at most "
                f"{silos}"
            )


def models(scenarios: Iterable[Mapping[str, Any]]) -> None:
    """Build the models that an algorithm, or adapters, may not go with; this takes torch and the data.

    Raises:
        InputError: batch normalisation under ADMM, adapters for layers that the model has not.
    """
    from fedbound.federation.assembly import Assembly
    from fedbound.registry import ALGORITHMS

    for scenario in _different(scenarios, "training", "data", "model"):
        algorithm = ALGORITHMS.make(scenario["training"]["algorithm"])
        if not (algorithm.synchronous or scenario["model"].get("lora_rank")):
            continue
        one = study.TrainScenario.model_validate(dict(scenario))
        algorithm.check(Assembly(one.data, one.model, one.training, one.exchange, one.seed).module())


def _different(scenarios: Iterable[Mapping[str, Any]], *keys: str) -> Iterable[Mapping[str, Any]]:
    """One scenario of each combination of these keys' values."""
    return {canonical([scenario[key] for key in keys]): scenario for scenario in scenarios}.values()
