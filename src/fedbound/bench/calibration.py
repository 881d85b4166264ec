"""Does the calibrated bound keep what it promises, at what cost, and do bounds per tensor or silo beat one bound?

Three questions, each answered on fresh seeds that the calibration has not seen, in the same run:

- oracle: the calibrate stage's bound against every bound on a grid around it. The best fixed bound is the coarsest one
  whose accuracy drop (paired by seed, test samples) is within the tolerance at one-sided 95 %.
- equal bytes: allocations over tensors and silos against one bound for all, at the bound where something is lost (the
  smallest refused one) and at the accepted one. Each allocation's scale is moved until three runs take the same bytes.
- theory: measured over predicted aggregated error, round by round.

Federations are those of `fedbound bench exchange`; accuracy is the mean of the last five evaluations of what silos
hold, over all silos' test samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedbound.bench import exchange
from fedbound.bench.exchange import Outcome
from fedbound.bench.rows import Row, aligned, find

if TYPE_CHECKING:
    from fedbound.artifacts import Artifact
    from fedbound.calibration.probes import Prober
    from fedbound.calibration.shape import Shape
    from fedbound.calibration.stage import Survey

BENCH = "calibration"
TOLERANCE = 1.0
AROUND = (-3, -2, -1, 0, 1, 2)  # grid steps around the calibrated bound
ALLOCATIONS: dict[str, dict[str, str]] = {
    "tensors by sensitivity": {"tensors": "sensitivity"},
    "tensors by rate": {"tensors": "rate"},
    "tensors by deviation": {"tensors": "deviation"},
    "bounds relative to ranges": {"rule": "range"},
    "silos by needs": {"silos": "needs"},
    "silos by weights": {"silos": "weights"},
}
UNIFORM = "one bound"
SAME_BYTES = 0.01  # share by which an allocation's bytes may differ from the uniform bound's
Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One federation and kind of exchange: what is calibrated, and the seeds that judge it."""

    name: str
    setting: exchange.Setting
    mode: str
    feedback: bool
    seeds: range
    smallest: float
    allocations: bool


def run(quick: bool, say: Say) -> list[Row]:
    """Calibrate every case, judge it on fresh seeds, compare allocations, check the theory.

    Raises:
        InputError: the folder in FEDBOUND_MNIST does not hold MNIST.
    """
    rows: list[Row] = []
    for case in cases(quick, say):
        rows += _case(case, quick, say)
    return rows


def cases(quick: bool, say: Say) -> list[Case]:
    """Deltas with error feedback on all federations, weights without on digits."""
    found = []
    for setting in exchange.settings(quick, say):
        seeds = range(3) if quick else range(10 if setting.name == "digits" else 5)
        found.append(Case(f"{setting.name}, delta", setting, "delta", True, seeds, 0.1, True))
        if setting.name == "digits":
            found.append(Case(f"{setting.name}, weights", setting, "weights", False, seeds, 0.01, False))
    return found


def _case(case: Case, quick: bool, say: Say) -> list[Row]:
    from fedbound.calibration.probes import Prober

    scenario = _scenario(case, quick, {})
    artifact = _calibrate(scenario)
    say(artifact["scales"].to_string(index=False))
    decision = artifact["decision"].iloc[0]
    accepted = float(decision["scale"])
    say(f"{case.name}: calibrated to {accepted:g}, refused {decision['refused']:g}")
    judge = _Judge(case, Prober(scenario))
    rows = _cost(case, artifact, judge)
    rows += _oracle(case, accepted, scenario.calibration.per_decade, judge, say)
    if case.allocations:
        for name, scale in (("accepted", accepted), ("refused", float(decision["refused"]))):
            if math.isfinite(scale):
                rows += _equal_bytes(case, name, scale, judge, quick, say)
    return rows + _theory(case, accepted, judge, 10 if quick else 25)


def _scenario(case: Case, quick: bool, options: dict[str, str]) -> Any:
    from fedbound import study
    from fedbound.registry import MODELS

    rounds = case.setting.training["rounds"]
    few = {"largest": 3.0, "per_decade": 4, "tolerance": 20.0} if quick else {}
    # digits has few samples to look at, and short runs
    seeds = range(101, 105 if quick else 117 if case.setting.name == "digits" else 107)
    calibration = {"rounds": rounds, "seeds": list(seeds), "smallest": case.smallest, "tolerance": TOLERANCE}
    calibration |= few | options
    if options.get("rule") == "range":
        calibration |= {"smallest": None, "largest": None}
    return study.CalibrateScenario(
        study="bench",
        data=study.Data.model_validate(case.setting.data),
        model=MODELS.normalise(case.setting.model),
        training=study.LocalTraining(),
        mode=case.mode,
        error_feedback=case.feedback,
        downlink="ebq",
        downlink_bound="calibrated",
        bound_mode=None,
        calibration=study.Calibration.model_validate(calibration),
    )


def _calibrate(scenario: Any) -> Artifact:
    from fedbound.calibration import stage

    return stage.run(scenario, {})


class _Judge:
    """Runs on fresh seeds, each made once."""

    def __init__(self, case: Case, prober: Prober):
        self.case = case
        self.prober = prober
        self.done: dict[tuple[str, float, int], Outcome] = {}

    def one(self, shape: Shape | None, scale: float, seed: int, name: str = UNIFORM) -> Outcome:
        """The outcome of one run at `scale`; 0 is uncompressed."""
        from fedbound.calibration.shape import Shape

        if (name, scale, seed) not in self.done:
            self.prober.shape = shape or Shape(rule=self.prober.scenario.calibration.rule)
            assembly = self.prober.assembly(scale, seed)
            assembly.training = assembly.training.model_copy(update={"evaluate_every": 1})
            self.done[name, scale, seed] = exchange.reached(assembly)
        return self.done[name, scale, seed]

    def all(self, shape: Shape | None, scale: float, name: str = UNIFORM) -> list[Outcome]:
        return [self.one(shape, scale, seed, name) for seed in self.case.seeds]


def _cost(case: Case, artifact: Artifact, judge: _Judge) -> list[Row]:
    """What the calibration cost, in units of one training run uncompressed."""
    decision, probes = artifact["decision"].iloc[0], artifact["probes"]
    full = np.mean([_total(one) for one in judge.all(None, 0.0)])
    baseline = probes[probes.purpose == "baseline"]
    points = ("mean_drop", "upper_drop", "upper_test")
    keys = ("scale", "largest", "refused", "screened", *points, "seeds", "probes", "bytes", "seconds")
    units = dict.fromkeys(points, "percentage point") | {"bytes": "byte", "seconds": "s"}
    rows = [Row(BENCH, case.name, "", f"decision_{k}", float(decision[k]), units.get(k, "1")) for k in keys]
    rows.append(Row(BENCH, case.name, "one uncompressed run", "cost_bytes", float(decision["bytes"] / full), "1"))
    rows.append(Row(BENCH, case.name, "", "baselines", float(len(baseline)), "1"))
    return rows


def _oracle(case: Case, accepted: float, per_decade: int, judge: _Judge, say: Say) -> list[Row]:
    from fedbound.calibration.accuracy import upper_limit

    tolerance = judge.prober.scenario.calibration.tolerance
    plain = judge.all(None, 0.0)
    rows = _reached(case.name + ": uncompressed", plain, plain)
    best = (0.0, math.inf)
    mine = math.inf
    for step in AROUND:
        scale = accepted * 10 ** (step / per_decade)
        found = judge.all(None, scale)
        label = f"{case.name}: {scale:.3g}" + (" (calibrated)" if step == 0 else "")
        rows += _reached(label, found, plain)
        upper = upper_limit([100 * (a.accuracy - b.accuracy) for a, b in zip(plain, found, strict=True)])
        size = float(np.mean([_total(one) for one in found]))
        rows.append(Row(BENCH, label, "", "scale", scale, "1"))
        rows.append(Row(BENCH, label, "", "keeps", float(upper <= tolerance), "1"))
        if upper <= tolerance and size < best[1]:
            best = (scale, size)
        if step == 0:
            mine = size
        say(f"{label}: {size / 1e6:.3f} MB, upper limit of the drop {upper:.2f}")
    rows.append(Row(BENCH, case.name, "", "best_fixed_bound", best[0], "1"))
    rows.append(Row(BENCH, case.name, "best fixed bound", "bytes", mine / best[1], "1"))
    return rows


def _reached(case: str, found: Sequence[Outcome], plain: Sequence[Outcome]) -> list[Row]:
    drops = [100 * (a.accuracy - b.accuracy) for a, b in zip(plain, found, strict=True)]
    rows = [
        Row(BENCH, case, "", "accuracy", float(np.mean([100 * one.accuracy for one in found])), "%"),
        Row(BENCH, case, "", "spread", float(np.mean([100 * one.spread for one in found])), "percentage point"),
        Row(BENCH, case, "", "worst_silo", float(np.mean([100 * one.worst for one in found])), "%"),
        Row(BENCH, case, "", "bytes", float(np.mean([_total(one) for one in found])), "byte"),
        Row(BENCH, case, "", "seeds", float(len(found)), "1"),
    ]
    return rows + _paired(case, exchange.UNCOMPRESSED, "drop", drops)


def _paired(case: str, peer: str, metric: str, values: Sequence[float]) -> list[Row]:
    """Mean of paired differences, and half the width of its two-sided 90 % interval."""
    from fedbound.calibration.accuracy import upper_limit

    mean = float(np.mean(values))
    half = upper_limit(values) - mean
    return [
        Row(BENCH, case, peer, metric, mean, "percentage point"),
        Row(BENCH, case, peer, f"{metric}_half_width", half, "percentage point"),
    ]


def _equal_bytes(case: Case, name: str, scale: float, judge: _Judge, quick: bool, say: Say) -> list[Row]:
    """Allocations at the bytes of one bound for all, at one scale."""
    from fedbound.calibration.stage import survey

    label = f"{case.name}, {name} {scale:.3g}"
    plain = judge.all(None, 0.0)
    uniform = judge.all(None, scale)
    rows = _reached(f"{label}: {UNIFORM}", uniform, plain)
    for allocation, options in ALLOCATIONS.items():
        judge.prober.scenario = _scenario(case, quick, options)
        known = survey(judge.prober)
        shape = known.shape
        start = scale * _unit(known, "std") / _unit(known, "range") if shape.rule == "range" else scale
        at = _at_bytes(judge, shape, scale, start, allocation)
        found = judge.all(shape, at, allocation)
        own = f"{label}: {allocation}"
        rows += _reached(own, found, plain)
        for metric, key in (("accuracy_gain", "accuracy"), ("spread_change", "spread"), ("worst_gain", "worst")):
            changes = [100 * (getattr(b, key) - getattr(a, key)) for a, b in zip(uniform, found, strict=True)]
            rows += _paired(own, UNIFORM, metric, changes)
        size = np.mean([_total(one) for one in found]) / np.mean([_total(one) for one in uniform])
        rows.append(Row(BENCH, own, UNIFORM, "bytes", float(size), "1"))
        rows.append(Row(BENCH, own, "", "scale", at, "1"))
        gain = find(rows, "accuracy_gain", own, UNIFORM)
        say(f"{own}: {size:.3f} of the bytes, accuracy {gain:+.2f} points")
    return rows


def _unit(known: Survey, rule: str) -> float:
    """What a scale of 1 is in the silos' first updates, mean over values and silos."""
    from fedbound.calibration.shape import unit

    blocks = known.layout.blocks
    return float(np.mean([sum(b.size * unit(rule, u[b.start : b.stop]) for b in blocks) for u in known.updates]))


def _at_bytes(judge: _Judge, shape: Shape, scale: float, start: float, name: str) -> float:
    """The scale at which the first three seeds take the bytes of one bound `scale`: bisection on logarithms.

    Bytes fall about as the bound to the power of -1.2, and faster where hardly any quantum differs from 0: the first
    steps follow that until the bytes are bracketed. Of all scales tried the one closest in bytes is returned.
    """
    seeds = judge.case.seeds[:3]
    wanted = sum(_total(judge.one(None, scale, seed)) for seed in seeds)
    tried: dict[float, float] = {}
    at = start
    for _ in range(9):
        tried[at] = math.log(sum(_total(judge.one(shape, at, seed, name)) for seed in seeds) / wanted)
        if abs(tried[at]) < SAME_BYTES:
            break
        more = [one for one, off in tried.items() if off > 0]  # too fine
        fewer = [one for one, off in tried.items() if off < 0]
        if more and fewer:
            at = math.sqrt(max(more) * min(fewer))
        else:
            at *= math.exp(min(0.7, max(-0.7, tried[at] / 1.2)))
    return min(tried, key=lambda one: abs(tried[one]))


def _theory(case: Case, accepted: float, judge: _Judge, rounds: int) -> list[Row]:
    """Quotients of measured and predicted aggregated error over `rounds`, blocks of 1024 values and more.

    At the accepted bound, by second moments, after five rounds; and, for weights with error feedback, at a bound far
    below half a standard deviation, by the uniform law, after two.
    """
    from fedbound import study
    from fedbound.calibration.watch import watch

    def quotients(exchange_: dict[str, Any], predicted: str, after: int) -> list[float]:
        assembly = judge.prober.assembly(0.0, case.seeds[0])
        assembly.training = assembly.training.model_copy(update={"rounds": rounds, "evaluate_every": rounds})
        assembly = replace(assembly, exchange=study.Exchange.model_validate(exchange_))
        server = assembly.server(assembly.local())
        found = watch(server)
        server.run()
        kept = [row for row in found if row.values >= 1024 and row.round > after]
        return [row.measured / getattr(row, predicted) for row in kept if getattr(row, predicted) > 0]

    own = {"codec": "ebq", "mode": case.mode, "error_feedback": case.feedback, "bound": accepted, "bound_mode": "std"}
    fine = {"codec": "ebq", "mode": "weights", "error_feedback": True, "bound": 0.003}
    rows = []
    for name, exchange_, predicted, after in (
        ("accepted bound", own, "moments", 5),
        ("fine weights", fine, "uniform", 2),
    ):
        found = quotients(exchange_, predicted, after)
        label = f"{case.name}: aggregated error, {name}"
        for metric, value in (
            ("quotient", np.mean(found)),
            ("quotient_low", min(found)),
            ("quotient_high", max(found)),
        ):
            rows.append(Row(BENCH, label, predicted, metric, float(value), "1"))
    return rows


def _total(one: Outcome) -> int:
    return one.bytes_up + one.bytes_down


def table(rows: Sequence[Row]) -> str:
    """Per case: the decision, the grid on fresh seeds, allocations at equal bytes, the theory."""
    parts = []
    for case in dict.fromkeys(row.case for row in rows if row.metric == "decision_scale"):
        parts += [_decision_lines(rows, case), _grid_lines(rows, case), _allocation_lines(rows, case)]
        for row in rows:
            if row.metric == "quotient" and row.case.startswith(f"{case}: "):
                low, high = (find(rows, f"quotient_{end}", row.case, row.peer) for end in ("low", "high"))
                said = f"{row.value:.3f} ({low:.3f} to {high:.3f})"
                parts.append(f"{row.case}: measured over predicted by {row.peer} {said}")
        parts.append("")
    return "\n".join(part for part in parts if part is not None)


def _decision_lines(rows: Sequence[Row], case: str) -> str:
    scale, largest, refused, drop, upper, test, probes, seconds = (
        find(rows, f"decision_{key}", case)
        for key in ("scale", "largest", "refused", "mean_drop", "upper_drop", "upper_test", "probes", "seconds")
    )
    cost = find(rows, "cost_bytes", case, "one uncompressed run")
    ratio = find(rows, "bytes", case, "best fixed bound")
    return (
        f"{case}: calibrated {scale:.3g} (confirmed up to {largest:.3g}, refused {refused:.3g}), drop {drop:.2f}, "
        f"at most {upper:.2f} points, on test samples {test:.2f}; "
        f"{probes:.0f} probes, bytes of {cost:.1f} uncompressed runs, {seconds:.0f} s; "
        f"bytes / best fixed bound's ({find(rows, 'best_fixed_bound', case):.3g}): {ratio:.2f}"
    )


def _grid_lines(rows: Sequence[Row], case: str) -> str:
    peer = exchange.UNCOMPRESSED
    names = [row.case for row in rows if row.metric == "bytes" and row.case.startswith(f"{case}: ") and not row.peer]
    lines = [
        (
            name.removeprefix(f"{case}: "),
            f"{find(rows, 'accuracy', name):.2f}",
            f"{find(rows, 'drop', name, peer):.2f} ± {find(rows, 'drop_half_width', name, peer):.2f}",
            f"{find(rows, 'spread', name):.2f}",
            f"{find(rows, 'worst_silo', name):.1f}",
            f"{find(rows, 'bytes', name) / 1e6:.3f}",
            {1.0: "yes", 0.0: "no"}.get(find(rows, "keeps", name), ""),
        )
        for name in names
    ]
    return aligned(("bound", "accuracy %", "drop ± 90 %", "silo sd", "worst %", "MB", "keeps"), lines)


def _allocation_lines(rows: Sequence[Row], case: str) -> str | None:
    names = list(dict.fromkeys(row.case for row in rows if row.peer == UNIFORM and row.case.startswith(f"{case}, ")))
    if not names:
        return None

    def paired(metric: str, name: str) -> str:
        mean, half = (find(rows, key, name, UNIFORM) for key in (metric, f"{metric}_half_width"))
        return f"{mean:+.2f} ± {half:.2f}"

    lines = [
        (
            name.removeprefix(f"{case}, "),
            *(paired(metric, name) for metric in ("accuracy_gain", "spread_change", "worst_gain")),
            f"{find(rows, 'bytes', name, UNIFORM):.3f}",
        )
        for name in names
    ]
    return "against one bound, 90 % intervals\n" + aligned(
        ("allocation", "accuracy", "silo sd", "worst silo", "bytes"), lines
    )


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy drop against bytes with the calibrated bound marked; spread per silo; allocations at equal bytes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fedbound.report.plots import COLOURS, GREY, MARKERS, _plain

    cases_ = list(dict.fromkeys(row.case for row in rows if row.metric == "decision_scale"))
    figure, axes = plt.subplots(2, len(cases_), figsize=(7 * len(cases_), 8), squeeze=False, layout="constrained")
    for (drops, gains), case in zip(axes.T, cases_, strict=True):
        names = [row.case for row in rows if row.metric == "scale" and row.case.startswith(f"{case}: ")]
        for name in names:
            peer = exchange.UNCOMPRESSED
            size, drop, half = (
                find(rows, "bytes", name) / 1e6,
                find(rows, "drop", name, peer),
                find(rows, "drop_half_width", name, peer),
            )
            mine = name.endswith("(calibrated)")
            style = {
                "color": COLOURS[1 if mine else 0],
                "marker": "*" if mine else "o",
                "markersize": 14 if mine else 6,
            }
            drops.errorbar(size, drop, yerr=half, capsize=3, label="calibrated" if mine else None, **style)
            drops.annotate(
                f"{find(rows, 'scale', name):.3g}", (size, drop), fontsize=8, xytext=(4, 4), textcoords="offset points"
            )
        drops.axhline(TOLERANCE, color=GREY, linestyle="--", linewidth=1, label=f"tolerance {TOLERANCE:g}")
        drops.set(
            xscale="log", xlabel="MB both ways, whole run (log scale)", ylabel="accuracy drop, points, 90 % interval"
        )
        drops.set_yscale("symlog", linthresh=2)
        drops.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        _plain(drops.xaxis)
        drops.set_title(f"{case}: where is the knee?", fontsize=10)
        drops.legend(fontsize=8)
        found = list(
            dict.fromkeys(row.case for row in rows if row.peer == UNIFORM and row.case.startswith(f"{case}, "))
        )
        for index, name in enumerate(found):
            for offset, (metric, sign) in enumerate((("accuracy_gain", 1), ("spread_change", -1))):
                mean, half = (find(rows, key, name, UNIFORM) for key in (metric, f"{metric}_half_width"))
                label = ("accuracy gained", "spread avoided")[offset] if not index else None
                gains.errorbar(
                    sign * mean, index + offset * 0.25, xerr=half, capsize=3, marker=MARKERS[offset], linestyle="none",
                    color=COLOURS[offset], label=label,
                )  # fmt: skip
        if found:
            gains.axvline(0, color=GREY, linewidth=0.8)
        gains.set_yticks(range(len(found)), [name.removeprefix(f"{case}, ") for name in found], fontsize=8)
        gains.set_xlabel("points against one bound at equal bytes, 90 % interval")
        if found:
            gains.legend(fontsize=8)
        else:
            gains.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)
