"""The recommendation: the cheapest setting that keeps accuracy, its evidence, and why not the others.

What is recommended and why rests on accuracies and bytes alone, which are the same in every run of a study; what
times add is kept apart, in columns marked measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Table
from fedbound.report import text
from fedbound.report.comparison import UNCOMPRESSED, groups

SEEDS_FOR_A_LIMIT = 3  # below that a paired-t limit says more about the seeds than about the codec
_AGAINST = 6  # settings whose refusal the report spells out; the table has all
_MOST_TIMES = 6  # simulations that are told one by one
_SLACK = 1e-9  # points; an accuracy drop of exactly the tolerance is within it, whatever the rounding


@dataclass(frozen=True)
class Candidate:
    """One setting as the recommendation sees it; drops in percentage points against `baseline`."""

    setting: str
    context: str
    codec: str
    algorithm: str
    bound: str
    bound_value: float
    accuracy: float
    worst_silo: float
    bytes: float
    bytes_up: float
    ratio_up: float
    epsilon: float
    round_seconds: float
    predicted_seconds: float
    baseline: str
    drop: float
    drop_sd: float
    drop_upper: float
    worst_silo_drop: float
    saving: float
    seeds: int

    @property
    def uncompressed(self) -> bool:
        return self.baseline == self.setting

    @property
    def judged(self) -> float:
        """The drop that counts: its upper limit, or its mean where the seeds are too few for one."""
        return self.drop_upper if self.seeds >= SEEDS_FOR_A_LIMIT else self.drop

    def objections(self, tolerance: float) -> list[str]:
        """Why this setting may not be run; empty where it may."""
        if not self.baseline:
            return ["no uncompressed run with its seeds was made, so nothing says what it costs"]
        found = []
        if not self.judged <= tolerance + _SLACK:
            what = "upper limit of its accuracy drop" if self.seeds >= SEEDS_FOR_A_LIMIT else "mean accuracy drop"
            found.append(f"the {what}, {text.points(self.judged)} points, is above the tolerance of {tolerance:g}")
        if not self.worst_silo_drop <= tolerance + _SLACK:
            lost = text.points(self.worst_silo_drop)
            found.append(f"its worst silo loses {lost} points, more than the tolerance of {tolerance:g}")
        return found


def tables(study: Mapping[str, Table], tolerance: float) -> dict[str, Table]:
    """The tables `pareto` and `recommendation` from `settings`, `comparisons` and `simulations` of study.h5."""
    pareto: list[dict[str, Any]] = []
    sentences: list[dict[str, Any]] = []
    for problem, rows in groups(study["settings"]["problem"].values):
        advice = advise(_candidates(study, rows), tolerance)
        pareto += [{"problem": problem, **row} for row in advice.pareto()]
        sentences += [{"problem": problem, **row} for row in advice.sentences(study["simulations"])]
    return {
        "pareto": schemas.STUDY_PARETO.table(pareto),
        "recommendation": schemas.STUDY_RECOMMENDATION.table(sentences),
    }


def _candidates(study: Mapping[str, Table], rows: np.ndarray) -> list[Candidate]:
    settings, comparisons = study["settings"], study["comparisons"]
    paired = {setting: i for i, setting in enumerate(comparisons["setting"].values)}
    baselines = set(comparisons["baseline"].values)
    predicted = _at_largest(study["simulations"])
    return [_candidate(settings, int(row), comparisons, paired, baselines, predicted) for row in rows]


def _at_largest(simulations: Table) -> dict[str, float]:
    """Mean predicted seconds for a round's work by setting, at the study's largest number of clients."""
    clients = simulations["clients"].values
    most = clients.max(initial=0)
    times: dict[str, list[float]] = {}
    for row in np.flatnonzero(clients == most):
        times.setdefault(simulations["setting"].values[row], []).append(simulations["epoch_seconds"].values[row])
    return {setting: float(np.mean(values)) for setting, values in times.items()}


def _candidate(
    settings: Table,
    row: int,
    comparisons: Table,
    paired: Mapping[str, int],
    baselines: set[str],
    predicted: Mapping[str, float],
) -> Candidate:
    own = {key: settings[key].values[row] for key in _OWN}
    own["predicted_seconds"] = predicted.get(own["setting"], math.nan)
    setting = own["setting"]
    if setting in paired:
        pair = {key: comparisons[key].values[paired[setting]] for key in _PAIRED}
    elif setting in baselines or own["codec"] in UNCOMPRESSED:
        zero = {"drop": 0.0, "drop_sd": 0.0, "drop_upper": 0.0, "worst_silo_drop": 0.0, "saving": 1.0}
        pair = {"baseline": setting, "seeds": settings["seeds"].values[row], **zero}
    else:
        unknown = ("drop", "drop_sd", "drop_upper", "worst_silo_drop", "saving")
        pair = {"baseline": "", "seeds": 0, **dict.fromkeys(unknown, math.nan)}
    return Candidate(**own, **pair)


_OWN = (
    "setting",
    "context",
    "codec",
    "algorithm",
    "bound",
    "bound_value",
    "accuracy",
    "worst_silo",
    "bytes",
    "bytes_up",
    "ratio_up",
    "epsilon",
    "round_seconds",
)
_PAIRED = ("baseline", "drop", "drop_sd", "drop_upper", "worst_silo_drop", "saving", "seeds")


@dataclass(frozen=True)
class Advice:
    """What to run of `candidates`, all of one problem: `chosen`, None where nothing can be said."""

    candidates: Sequence[Candidate]
    tolerance: float
    context: str
    chosen: Candidate | None

    @property
    def baseline(self) -> Candidate | None:
        chosen = self.chosen
        return next((c for c in self.candidates if chosen and c.setting == chosen.baseline), None)

    def pareto(self) -> Iterator[dict[str, Any]]:
        """All settings with what the choice was made on, the fewest bytes first."""
        front = on_front(self.candidates)
        for candidate, undominated in sorted(zip(self.candidates, front, strict=True), key=lambda pair: pair[0].bytes):
            yield {
                **{key: getattr(candidate, key) for key in _PARETO},
                "acceptable": int(not candidate.objections(self.tolerance)),
                "front": int(undominated),
                "chosen": int(candidate is self.chosen),
                "reason": self.reason(candidate),
            }

    def reason(self, candidate: Candidate) -> str:
        """Why `candidate` was chosen, or why not."""
        if candidate is self.chosen:
            return "the fewest bytes of all settings that keep accuracy and worst silo within the tolerance"
        objections = candidate.objections(self.tolerance)
        if objections or self.chosen is None:
            return "; ".join(objections)
        if candidate.context != self.context:
            return f"trains as {candidate.context!r}, whose uncompressed accuracy is lower than with {self.context!r}"
        if candidate.bytes == self.chosen.bytes:
            return "sends as many bytes and is no more accurate"
        return f"keeps accuracy too, but sends {text.times(candidate.bytes / self.chosen.bytes)} the bytes"

    def sentences(self, simulations: Table) -> Iterator[dict[str, str]]:
        """The recommendation, sentence by sentence: kind, sentence, and what measured times add."""
        chosen, baseline = self.chosen, self.baseline
        if chosen is None or baseline is None:
            yield _sentence("choice", "No recommendation: no uncompressed run was collected to compare with.")
            return
        yield _sentence("choice", self._choice(chosen))
        if chosen is not baseline:
            yield _sentence("evidence", self._evidence(chosen))
            yield _sentence("traffic", _traffic(chosen, baseline))
        yield from self._times(simulations, chosen, baseline)
        for candidate in self._against(chosen, baseline):
            yield _sentence("against", f"Why not {candidate.setting!r}: {self.reason(candidate)}.")

    def _choice(self, chosen: Candidate) -> str:
        if not chosen.uncompressed:
            return f"Run {chosen.setting!r} ({_codec(chosen)}, {chosen.algorithm})."
        if any(not c.uncompressed for c in self.candidates):
            return (
                f"Do not compress: run {chosen.setting!r} ({chosen.algorithm}); no compressed setting that sends less "
                f"keeps accuracy and worst silo within {self.tolerance:g} points."
            )
        return f"Run {chosen.setting!r} ({chosen.algorithm}): no compressed setting was tried."

    def _evidence(self, chosen: Candidate) -> str:
        limit = (
            f"one-sided 95 % upper limit of the loss {text.points(chosen.drop_upper)}"
            if chosen.seeds >= SEEDS_FOR_A_LIMIT
            else f"judged by the mean, as {text.count(chosen.seeds, 'seed')} cannot give a usable limit"
        )
        if chosen.seeds >= SEEDS_FOR_A_LIMIT and chosen.drop_sd == 0:
            limit += ", no wider than the mean as all seeds lose the same: more seeds or test samples would tell more"
        return (
            f"Over {text.count(chosen.seeds, 'paired seed')} it {_lost(chosen.drop)} of accuracy against uncompressed "
            f"({limit}; tolerance {self.tolerance:g}) and its worst silo {_lost(chosen.worst_silo_drop)}; accuracy is "
            f"{text.percent(chosen.accuracy)}, the worst silo's {text.percent(chosen.worst_silo)}."
        )

    def _times(self, simulations: Table, chosen: Candidate, baseline: Candidate) -> Iterator[dict[str, str]]:
        cheapest = min(self.candidates, key=lambda c: c.bytes)
        other = baseline if chosen is not baseline else cheapest
        own, others = _simulated(simulations, chosen.setting), _simulated(simulations, other.setting)
        pairs = {key: (took, others[key]) for key, took in own.items() if key in others and other is not chosen}
        if len(pairs) > _MOST_TIMES:
            yield _sentence("time", f"Predicted in {len(pairs)} simulations", _range(pairs, other.setting))
            return
        for key, took in own.items():
            timing = f"{text.seconds(took)} for a round's work"
            if key in pairs:
                timing += f" against {text.seconds(others[key])} with {other.setting!r} ({_speed(took, others[key])})"
            yield _sentence("time", f"Predicted at {_where(key)}", timing)

    def _against(self, chosen: Candidate, baseline: Candidate) -> list[Candidate]:
        others = sorted((c for c in self.candidates if c not in (chosen, baseline)), key=lambda c: c.bytes)
        first = [baseline] if baseline is not chosen else []
        return (first + others)[:_AGAINST]


_PARETO = (
    "context",
    "setting",
    "accuracy",
    "worst_silo",
    "bytes",
    "drop",
    "drop_upper",
    "worst_silo_drop",
    "epsilon",
    "seeds",
    "round_seconds",
    "predicted_seconds",
)


def advise(candidates: Sequence[Candidate], tolerance: float) -> Advice:
    """Choose among settings of one problem.

    The context (algorithm, learning rate ...) whose uncompressed runs are the most accurate is taken; in it, the
    setting with the fewest bytes both ways whose drop and worst silo stay within `tolerance` (percentage points).
    """
    uncompressed = [c for c in candidates if c.uncompressed]
    if not uncompressed:
        return Advice(candidates, tolerance, "", None)
    context = max(uncompressed, key=lambda c: (c.accuracy, -c.bytes)).context
    acceptable = [c for c in candidates if c.context == context and not c.objections(tolerance)]
    chosen = min(acceptable, key=lambda c: (c.bytes, -c.accuracy, not c.uncompressed))
    return Advice(candidates, tolerance, context, chosen)


def on_front(candidates: Sequence[Candidate]) -> np.ndarray:
    """Which candidates no other beats: fewer bytes, more accuracy and a better worst silo, none of them worse."""
    costs = np.array([(c.bytes, -c.accuracy, -c.worst_silo) for c in candidates]).reshape(-1, 3)
    front = np.ones(len(costs), dtype=bool)
    for i, cost in enumerate(costs):
        front[i] = not np.any(np.all(costs <= cost, axis=1) & np.any(costs < cost, axis=1))
    return front


def _lost(drop: float) -> str:
    """A drop in percentage points, as a verb and an object."""
    return f"{'gains' if round(drop, 2) < 0 else 'loses'} {text.points(abs(drop))} points"


def _sentence(kind: str, sentence: str, timing: str = "") -> dict[str, str]:
    return {"kind": kind, "sentence": sentence, "timing": timing}


def _codec(candidate: Candidate) -> str:
    if not candidate.bound:
        return f"codec {candidate.codec}"
    if candidate.bound == "calibrated":
        return f"codec {candidate.codec} at the calibrated bound, {candidate.bound_value:.3g}"
    mode = candidate.bound.partition(" ")[2]
    words = {
        "abs": "an absolute bound of {:g}",
        "std": "{:g} standard deviations of each tensor",
        "rel_quantile": "{:g} of the range of each tensor's central 99.8 %",
        "ratio": "a ratio of {:g}",
    }
    return f"codec {candidate.codec} at " + words.get(mode, "{:g} of each tensor's range").format(candidate.bound_value)


def _traffic(chosen: Candidate, baseline: Candidate) -> str:
    return (
        f"It sends {text.size(chosen.bytes)} both ways where uncompressed sends {text.size(baseline.bytes)}: "
        f"{text.times(chosen.saving)} less; uplink alone {text.times(chosen.ratio_up)} less than the raw updates."
    )


def _simulated(simulations: Table, setting: str) -> dict[tuple[str, str, int], float]:
    """Mean predicted seconds for as much work as a round of all clients is, by scheduler, case and clients."""
    times: dict[tuple[str, str, int], list[float]] = {}
    for row in np.flatnonzero(simulations["setting"].values == setting):
        scheduler, case, clients = (simulations[key].values[row] for key in ("scheduler", "case", "clients"))
        times.setdefault((scheduler, case, int(clients)), []).append(simulations["epoch_seconds"].values[row])
    return {key: float(np.mean(values)) for key, values in sorted(times.items())}


def _where(key: tuple[str, str, int]) -> str:
    scheduler, case, clients = key
    return f"{text.count(clients, 'client')}, {scheduler}" + (f", {case}" if case else "")


def _range(pairs: Mapping[tuple[str, str, int], tuple[float, float]], other: str) -> str:
    """The most and the least that the choice gains; the report's section on simulation has the rest."""

    def told(key: tuple[str, str, int]) -> str:
        took, others = pairs[key]
        return f"{_speed(took, others)} at {_where(key)} ({text.seconds(took)} against {text.seconds(others)})"

    ranked = sorted(pairs, key=lambda key: pairs[key][0] / pairs[key][1])
    faster = sum(took < others for took, others in pairs.values())
    return (
        f"a round's work, against {other!r}, is between {told(ranked[0])} and {told(ranked[-1])}; "
        f"faster in {faster} of {len(pairs)}"
    )


def _speed(took: float, other: float) -> str:
    if not (took > 0 and other > 0):
        return "no ratio"
    faster = other / took
    return f"{text.times(faster)} faster" if faster >= 1 else f"{text.times(1 / faster)} slower"
