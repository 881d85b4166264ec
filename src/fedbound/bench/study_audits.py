"""What `fedbound audit` measures and prints: every audit of every run of a study, its first seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedbound import study
from fedbound.auditing import runs
from fedbound.bench.rows import Row, aligned, find
from fedbound.errors import InputError

BENCH = "audit"


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Attributes:
        canaries: most canaries of a private run; 0: no such audit.
        models: shadow models of each run; 0: no membership inference.
        pairs: pairs of updates that recompressing tells apart or not; 0: no attack on codecs.
        seed: of coin flips, noise and halves.
    """

    canaries: int = 1000
    models: int = 0
    pairs: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if 0 < self.models < 4:
            raise InputError(f"--models: {self.models} are too few: half of them must not have seen a record; give 4")


def scenarios(study_: study.Study) -> Iterator[tuple[str, study.TrainScenario]]:
    """The training runs of a study, first seed, each with a name that says what sets it apart."""
    from fedbound import plan
    from fedbound.report import labels

    found = [study.TrainScenario(**job.scenario) for job in plan.make(study_).jobs["train"].values()]
    first = sorted((one for one in found if one.seed == study_.seeds[0]), key=_order)
    flats = [labels.flatten(one.model_dump(mode="json")) for one in first]
    varying = labels.varying(flats)
    names = [_name(one, labels.extras(flat, varying)) or study_.study for one, flat in zip(first, flats, strict=True)]
    yield from zip(labels.unique(names, [one.model_dump_json() for one in first]), first, strict=True)


def _order(scenario: study.TrainScenario) -> tuple[str, str, float, float]:
    """By unit, mechanism and epsilon; runs without privacy first."""
    privacy = scenario.training.privacy
    if privacy is None:
        return ("", "", 0.0, 0.0)
    return (privacy.unit, privacy.mechanism, privacy.epsilon or 0.0, privacy.noise_multiplier or 0.0)


def _name(scenario: study.TrainScenario, extras: str) -> str:
    privacy = scenario.training.privacy
    unit = f"unit={privacy.unit}" if privacy is not None else ""
    return ", ".join(filter(None, [unit, extras]))


def measure(study_: study.Study, effort: Effort, say: Callable[[str], None]) -> list[Row]:
    """All audits that apply; nothing applies to an exact run without privacy unless models are asked for.

    Raises:
        InputError: no audit applies to any run.
    """
    rows: list[Row] = []
    done: dict[str, str] = {}  # audits of codecs, which do not depend on privacy
    for name, scenario in scenarios(study_):
        rng = np.random.default_rng(effort.seed)
        if scenario.training.privacy is not None and effort.canaries:
            found = runs.canaries(scenario, effort.canaries, rng)
            rows += _rows(f"canaries: {name}", claimed=found.claimed, **_shown(found))
            say(f"{name}: claimed {found.claimed:.3g}, {found.shown.canaries} canaries show {found.shown.audited:.3g}")
        if effort.models:
            attack = runs.members(scenario, effort.models, rng)
            figures = {"auc": attack.auc, "found": attack.tpr, "false_alarms": attack.fpr, "models": attack.models}
            rows += _rows(f"members: {name}", claimed=runs.claim(scenario), records=attack.records, **figures)
            say(f"{name}: area {attack.auc:.3f}, {100 * attack.tpr:.1f} % found at {100 * attack.fpr:.1f} %")
        own = scenario.exchange.model_dump_json()
        if effort.pairs and scenario.training.privacy is None and own not in done:
            done[own] = name
            coded = runs.codec(scenario, effort.pairs, rng)
            if coded is not None:
                law = {"uniform": coded.law.uniform, "laplace": coded.law.laplace, "with_data": coded.law.with_data}
                rows += _rows(f"codec: {name}", bound=coded.bound, told=coded.told, edge_pairs=coded.edges, **law)
                say(f"{name}: {100 * coded.told:.0f} % of updates one bound apart are told apart")
    if not rows:
        raise InputError(
            "audit: no run of this study is private or has a lossy codec, and --models is 0: there is nothing to test"
        )
    return rows


def _shown(found: runs.Canaries) -> dict[str, float]:
    shown = found.shown
    exceeds = float(shown.audited > found.claimed)
    return {"audited": shown.audited, "cap": shown.cap, "canaries": shown.canaries, "exceeds": exceeds}


def _rows(case: str, **figures: float) -> list[Row]:
    return [Row(BENCH, case, "", name, float(value), "1") for name, value in figures.items()]


_KINDS = {
    "canaries": (
        ("claimed", "audited", "cap", "canaries", "exceeds"),
        "lower bound of epsilon by canaries in the run's releases, wrong with probability 5 %; cap: all guessed right "
        "(a sum has no more canaries than vectors or coordinates)",
    ),
    "members": (
        ("claimed", "auc", "found", "false_alarms", "models", "records"),
        "shadow-model likelihood ratio: share of members found at that share of false alarms; guessing: auc 0.5",
    ),
    "codec": (
        ("bound", "uniform", "laplace", "with_data", "told", "edge_pairs"),
        "distance of the error's law from uniform and Laplace; told: share of updates one bound apart that "
        "recompressing tells apart; edge_pairs: of 5 coordinates, those with neighbouring floats whose outputs never "
        "agree: any such pair makes epsilon infinite",
    ),
}


def table(rows: Sequence[Row]) -> str:
    """One table per kind of audit."""
    parts = []
    for kind, (metrics, meaning) in _KINDS.items():
        cases = list(dict.fromkeys(row.case for row in rows if row.case.startswith(f"{kind}: ")))
        if cases:
            lines = [(case.split(": ", 1)[1], *(_cell(find(rows, m, case)) for m in metrics)) for case in cases]
            parts.append(f"{aligned((kind, *metrics), lines)}\n  {meaning}")
    return "\n\n".join(parts)


def _cell(value: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.4g}"
