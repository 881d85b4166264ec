"""Audits of the runs that a study trains: canaries in their releases, shadow runs against their members, their codec.

- Canaries: the run's own clipping, noise, rounding and sums, all rounds of them, on units (silos or records) of which
  each holds a vector of its own or nothing by a coin flip; from what is released it is guessed which did (Steinke et
  al. 2023, `one_run`). The model's training plays no part: its gradients are what an adversary chose.
- Members: federations of the study trained anew on random halves of its records, each attacked with the others as
  shadows (Carlini et al. 2022, `membership`).
- Codec: what its error says of a real update, and how often recompressing tells two updates apart (`compression`).

Everything runs in this process, from a seed. Nothing audited here was released by a run that is done.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fedbound import codecs, data, schemas, study
from fedbound.artifacts import Artifact
from fedbound.auditing import compression, membership, one_run
from fedbound.errors import InputError
from fedbound.exchange import bounds, perturb, summation
from fedbound.federation.assembly import Assembly
from fedbound.federation.spending import Spent, Steps
from fedbound.privacy.sums import Sum

if TYPE_CHECKING:
    import torch

LEVEL = 0.05  # probability that one audit's lower bound is wrong
_REACH = 100.0  # gradients of DP-SGD's canaries over their clip: clipping holds them to it
CALIBRATED = 0.01  # the relative bound that stands for a calibrated one
_REPLAY = 0x617564  # keeps an audit's draws apart from others of the run's seed
_VALUES = 1 << 28  # of all their inputs in DP-SGD, float32: 1 GiB
_RATE = 1e-7  # learning rate of theirs: the model hardly moves, so that their gradients stay


def assembled(scenario: study.TrainScenario, source: data.Federation | None = None) -> Assembly:
    """The run's parts; calibrated bounds are not read, so that an uncompressed exchange stands for them."""
    exchange = scenario.exchange
    if "calibrated" in (exchange.bound, exchange.downlink_bound):
        exchange = study.Exchange(codec="none", mode=exchange.mode)
    return Assembly(scenario.data, scenario.model, scenario.training, exchange, scenario.seed, source=source)


# ---- canaries -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canaries:
    """What canaries show of a run's releases.

    Attributes:
        claimed: epsilon of all the run's rounds, as it would be claimed.
        shown: the lower bound, and the most that so many canaries could show.
    """

    claimed: float
    shown: one_run.OneRun


def canaries(scenario: study.TrainScenario, most: int, rng: np.random.Generator) -> Canaries:
    """Audit the run's releases, all rounds together, with up to `most` canaries.

    Args:
        scenario: a run with privacy.
        most: canaries; fewer where the sum has fewer vectors or coordinates, or DP-SGD so many records that the
            canaries' inputs would not fit 1 GiB.
        rng: of coin flips and noise.

    Raises:
        InputError: the run is not private.
    """
    settings = scenario.training.privacy
    if settings is None:
        raise InputError("training.privacy: null has no epsilon that canaries could test; give a mechanism")
    assembly = assembled(scenario)
    spending = assembly.spending()
    if assembly.private is not None:
        scores, included = _of_sums(assembly.private.sum, assembly.private.vectors, scenario, most, rng)
    elif isinstance(spending, Steps):
        scores, included = _of_steps(assembly, settings, spending, most, rng)
    else:
        scores, included = _of_updates(assembly, settings, most, rng)
    return Canaries(_claim(assembly), one_run.audit(scores, included, settings.delta, LEVEL))


def with_audit(scenario: study.TrainScenario, run: Artifact) -> Artifact:
    """The run's artifact, with the table `audit` (`schemas.RUN_AUDIT`) where `training.privacy.canaries` asks for it.

    Coin flips and noise follow from the run's seed: what is audited is a replay, which releases nothing of the run.
    """
    settings = scenario.training.privacy
    if settings is None or not settings.canaries:
        return run
    found = canaries(scenario, settings.canaries, np.random.default_rng([scenario.seed, _REPLAY]))
    shown = {key: getattr(found.shown, key) for key in ("audited", "cap", "level", "canaries", "guesses", "right")}
    table = schemas.RUN_AUDIT.table([{"claimed": found.claimed, **shown}])
    print(
        f"{shown['canaries']} canaries in a replay of the releases show epsilon {shown['audited']:.3g}; claimed "
        f"{found.claimed:.4g}, and at most {shown['cap']:.3g} could be shown",
        flush=True,
    )
    return replace(run, tables=run.tables | {"audit": table})


def claim(scenario: study.TrainScenario) -> float:
    """Epsilon that the run will have spent when all its rounds are done; inf without privacy."""
    return _claim(assembled(scenario)) if scenario.training.privacy else math.inf


def _claim(assembly: Assembly) -> float:
    silos, rounds = range(assembly.data.silos), assembly.training.rounds
    return assembly.spending().epsilon(Spent(dict.fromkeys(silos, rounds), rounds, [tuple(silos)] * rounds))


Scored = tuple[np.ndarray, np.ndarray]  # float64 [m] scores, and which canaries were in, bool [m]


def _of_sums(
    sum_: Sum, vectors: list[int], scenario: study.TrainScenario, most: int, rng: np.random.Generator
) -> Scored:
    """Every vector of the sum is a canary along a coordinate of its own, or zero; beyond `most` all are zero."""
    plan = sum_.plan
    count = min(most, plan.dimension, sum(vectors))
    included = rng.random(count) < 0.5
    ends = np.cumsum([0, *vectors])
    scores = np.zeros(count)
    for round_ in range(plan.rounds):
        signs, total = summation.signs(scenario.seed, round_, plan.size), np.zeros(plan.size, np.int64)
        for start, end in itertools.pairwise(ends):
            taken = np.arange(start, end)
            taken = taken[taken < count]
            taken = taken[included[taken]]  # zero vectors are as absent ones to the sum
            taken = taken[rng.random(len(taken)) < plan.rate] if plan.rate < 1 else taken
            own = _canaries(taken, plan.dimension, plan.clip)
            total += sum_.encode(own, int(end - start - len(taken)), signs, rng)
            total &= (1 << plan.bits) - 1
        scores += sum_.decode(total, sum(vectors), signs)[:count]
    return scores, included


def _canaries(numbers: np.ndarray, size: int, clip: float) -> Iterator[np.ndarray]:
    """The vectors along these coordinates, float64 [k, size], some at a time."""
    step = max(1, 2**22 // size)
    for start in range(0, len(numbers), step):
        own = numbers[start : start + step]
        rows = np.zeros((len(own), size))
        rows[np.arange(len(own)), own] = clip
        yield rows


def _of_updates(assembly: Assembly, settings: study.TrainingPrivacy, most: int, rng: np.random.Generator) -> Scored:
    """As many silos, each with a noised update in every round: the clip along one coordinate, or none, or its opposite.

    Noise is drawn coordinate by coordinate, so that one coordinate of an update has all there is to see.
    """
    scale = assembly.noise_deviation() / (math.sqrt(2) if settings.mechanism == "laplace" else 1)
    assert settings.mechanism in ("gaussian", "laplace")
    perturbation = perturb.Perturbation(settings.mechanism, settings.clip, scale, lambda _: rng)
    included = rng.random(most) < 0.5
    without = 0.0 if settings.adjacency == "zero-out" else -1.0
    scores = np.zeros(most)
    for silo in range(most):
        for round_ in range(assembly.training.rounds):
            held = 2 * settings.clip * (1.0 if included[silo] else without)  # which clipping must halve
            update = np.array([held], np.float32)
            perturbation.apply(update, round_)
            scores[silo] += update[0]
    return scores, included


def _of_steps(
    assembly: Assembly, settings: study.TrainingPrivacy, spending: Steps, most: int, rng: np.random.Generator
) -> Scored:
    """DP-SGD on records whose gradients are orthogonal, longer than the clip and there to stay; the others have none.

    In the silo whose records spend the most. Row i of the inputs reaches weights of its own.
    """
    import torch

    from fedbound.models import per_example

    rounds = assembly.training.rounds
    silo = max(range(assembly.data.silos), key=lambda one: spending.of_silo(one, rounds))
    noise = per_example.RecordNoise(settings.clip, spending.multipliers[silo], spending.rates[silo])
    records = len(assembly.silos.silos[silo].train)
    count = min(most, records, max(1, _VALUES // records))
    included = rng.random(count) < 0.5
    inputs = np.zeros((records, count), np.float32)
    inputs[np.arange(count), np.arange(count)] = _REACH * noise.clip * included
    still = assembly.training.model_copy(
        update={"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": _RATE, "device": "cpu"}
    )
    module = torch.nn.Linear(count, 2, bias=False)
    torch.nn.init.zeros_(module.weight)
    split = data.Split(inputs, np.zeros(records, np.int64))
    for round_ in range(rounds):
        per_example.train(module, split, still, noise, round_, rng)
    weight = module.weight.detach().double().numpy()
    return weight[0] - weight[1], included


# ---- members --------------------------------------------------------------------------------------------------------


def members(scenario: study.TrainScenario, models: int, rng: np.random.Generator) -> membership.Attack:
    """Attack the run's final models, each trained on a random half of the records, with the others as shadows.

    Args:
        scenario: a run; each model is trained by its algorithm, exchange and privacy.
        models: how many; each is a whole run.
        rng: of the halves and the runs' seeds.
    """
    from fedbound.models.state import set_state

    whole = assembled(scenario).silos
    sizes = [len(silo.train) for silo in whole.silos]
    ends = np.cumsum([0, *sizes])

    def train(chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        own = [chosen[start:end] for start, end in itertools.pairwise(ends)]
        halves = [_only(silo, kept) for silo, kept in zip(whole.silos, own, strict=True)]
        seeded = scenario.model_copy(update={"seed": int(rng.integers(2**31))})
        assembly = assembled(seeded, data.Federation(halves, whole.shape, whole.classes, whole.name))
        state = assembly.server(assembly.local()).run()
        module = assembly.module()
        set_state(module, assembly.layout.unflatten(state))
        return np.concatenate([_confidence(module, silo.train) for silo in whole.silos])

    return membership.likelihood_ratio(train, int(sum(sizes)), models, rng)


def _only(silo: data.SiloData, kept: np.ndarray) -> data.SiloData:
    """The silo with some of its training samples, the first where none is kept: a silo trains on something."""
    index = np.flatnonzero(kept) if kept.any() else np.arange(1)
    return data.SiloData(data.Split(silo.train.x[index], silo.train.y[index]), silo.validation, silo.test)


def _confidence(module: torch.nn.Module, split: data.Split) -> np.ndarray:
    """Probability of each sample's label (of a text: the geometric mean over its tokens), float64 [n]."""
    import torch

    from fedbound.models import training

    device = next(module.parameters()).device
    x, y = training._tensors(split, module, device)
    found = []
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(split), 512):
            part = slice(start, start + 512)
            logits = torch.log_softmax(module(x[part]).double(), -1)
            own = logits.gather(-1, y[part].long().unsqueeze(-1)).squeeze(-1)
            found.append(own.reshape(len(own), -1).mean(1).exp().cpu().numpy())
    return np.concatenate(found)


# ---- codec ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compressed:
    """What a codec's error says of an update.

    Attributes:
        bound: the absolute bound.
        law: how the error is distributed.
        told: share of pairs of updates, one bound apart in one coordinate, that recompressing tells apart.
        edges: of five coordinates, how many have two values one floating-point step apart whose outputs never agree.
    """

    bound: float
    law: compression.ErrorLaw
    told: float
    edges: int


def _rule(exchange: study.Exchange, assembly: Assembly, change: np.ndarray, used: codecs.Codec) -> bounds.BoundRule:
    if exchange.bound == "calibrated":
        return bounds.Range(CALIBRATED)
    rule = bounds.rule(exchange, assembly.layout, 0, None)
    return rule.prepare(assembly.layout, change, used) if isinstance(rule, bounds.Ratio) else rule


def codec(scenario: study.TrainScenario, trials: int, rng: np.random.Generator) -> Compressed | None:
    """Attack the run's uplink codec on the largest tensor of an update of its first round; None without a bound.

    Args:
        scenario: a run; calibrated bounds are tried at the relative bound `CALIBRATED`.
        trials: pairs that are told apart or not.
        rng: which coordinates.
    """
    choice = dict(scenario.exchange.codec)
    used = codecs.get(choice.pop("name"), **choice)
    if not used.error_bounded or scenario.exchange.bound is None:
        return None
    once = scenario.training.model_copy(update={"rounds": 1, "evaluate_every": 1, "privacy": None})
    plain = scenario.model_copy(update={"training": once, "exchange": study.Exchange(codec="none")})
    assembly = assembled(plain)
    before = assembly.initial_state().copy()
    after = assembly.server(assembly.local()).run()
    change = after.vector - before.vector
    block = max(assembly.layout.blocks, key=lambda one: one.size)
    update = np.ascontiguousarray(change[block.start : block.stop])
    bound = _rule(scenario.exchange, assembly, change, used).absolute(block, update)
    few = update[:4096]
    return Compressed(
        bound,
        compression.error_law(used, update, bound),
        compression.recompress(used, few, bound, bound, trials, rng).advantage,
        sum(compression.edge_pair(used, few[:1024], i, bound) is not None for i in range(min(5, few.size))),
    )
