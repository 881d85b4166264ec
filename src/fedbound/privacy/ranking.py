"""Which mechanism for this study: all of them, calibrated for its own clients, dimension, trust and bits, by error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fedbound.errors import InputError
from fedbound.privacy import accounting, transforms
from fedbound.privacy.mechanisms import Setting, Trust, debiased_mse
from fedbound.registry import MECHANISMS

if TYPE_CHECKING:
    from fedbound import study

# Who trusts more may use what needs less: a mechanism's need against what is there.
MEETS: dict[str, set[str]] = {
    "local": {"local"},
    "shuffler": {"local", "shuffler"},
    "secure aggregation": {"local", "secure aggregation"},
    "central server": {"local", "shuffler", "secure aggregation", "central server"},
}


@dataclass(frozen=True)
class Ranked:
    """One mechanism that can be had.

    Attributes:
        choice: name and options, as in a study.
        trust: who must be trusted.
        adjacency: the neighbours of its epsilon; replace is the stronger.
        norm: the norm that is clipped; errors compare within one norm.
        epsilon: what is claimed, at most the setting's.
        mse: closed form of the mean squared error per coordinate of the mean, after dividing by `gain`.
        gain: what the estimate's mean is of the clients' mean; 1 without bias.
        over_floor: the same over the central Gaussian's; NaN where another norm than L2 is clipped.
        bits: bits per coordinate that a client sends.
    """

    choice: dict[str, Any]
    trust: str
    adjacency: str
    norm: str
    epsilon: float
    mse: float
    gain: float
    over_floor: float
    bits: float


def rank(
    setting: Setting,
    trust: Trust,
    bits: float = math.inf,
    norm: str = "L2",
    choices: Sequence[Mapping[str, Any]] | None = None,
    say: Callable[[str], None] = lambda name: None,
) -> tuple[list[Ranked], dict[str, str]]:
    """Mechanisms by error, least first, and why others are left out, by name.

    Args:
        setting: epsilon, delta, clients, dimension, clip and rounds.
        trust: who is trusted; mechanisms that need no more are offered.
        bits: most bits per coordinate that a client may send.
        norm: the norm of the clip, L1, L2 or Linf.
        choices: mechanisms with options; all registered ones by default, those with a field of bits at the most bits.
        say: is told the name of each mechanism whose noise is about to be solved.
    """
    floor = (accounting.gaussian_multiplier(setting.epsilon, setting.delta) * setting.clip / setting.clients) ** 2
    floor *= setting.rounds
    found: list[Ranked] = []
    refused: dict[str, str] = {}
    for choice in choices if choices is not None else _all(setting, bits, norm):
        name = str(choice["name"])
        mechanism = MECHANISMS.make(choice)
        if mechanism.norm != norm:
            refused[name] = f"clips the {mechanism.norm} norm"
        elif mechanism.trust not in MEETS[trust]:
            refused[name] = f"needs trust: {mechanism.trust}"
        else:
            say(name)
            try:
                release = mechanism.calibrate(setting)
            except InputError as error:
                refused[name] = str(error)
                continue
            if release.bits > bits:
                refused[name] = f"sends {release.bits:.3g} bits per coordinate"
                continue
            guarantee = release.guarantee
            mse = debiased_mse(release)
            found.append(
                Ranked(
                    dict(choice),
                    guarantee.trust,
                    guarantee.adjacency,
                    norm,
                    guarantee.epsilon,
                    mse,
                    release.gain,
                    mse / floor if norm == "L2" else math.nan,
                    release.bits,
                )
            )
    return sorted(found, key=lambda one: one.mse), refused


def _all(setting: Setting, bits: float, norm: str = "L2") -> list[dict[str, Any]]:
    """Every mechanism; sums in fields of as many bits as may be sent, 16 where that is not limited."""
    padding = transforms.padded(setting.dimension) / setting.dimension
    field = 16 if math.isinf(bits) else int(min(20, bits / padding))
    choices = []
    for name in MECHANISMS.available():
        summed = MECHANISMS.get(name).trust == "secure aggregation"
        own = "bits" in MECHANISMS.entry(name).options.model_fields
        choice = {"name": name, "bits": field} if summed and own and field >= 2 else {"name": name}
        if norm == "Linf" and "norm" in MECHANISMS.entry(name).options.model_fields:
            choice |= {"norm": norm, "rotation": "none"}
        choices.append(choice)
    return choices


def table(found: Sequence[Ranked], refused: Mapping[str, str]) -> str:
    """The ranking as Markdown, and what was left out below it."""
    lines = [
        "| mechanism | trust | neighbours | epsilon | MSE | over central Gaussian | gain | bits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        options = ", ".join(f"{key} {value}" for key, value in one.choice.items() if key != "name")
        name = f"`{one.choice['name']}`{', ' + options if options else ''}"
        over = "–" if math.isnan(one.over_floor) else f"{one.over_floor:.3g}"
        figures = f"{one.epsilon:.4g} | {one.mse:.3g} | {over} | {one.gain:.3g} | {one.bits:.3g}"
        lines.append(f"| {name} | {one.trust} | {one.adjacency} | {figures} |")
    reasons: dict[str, list[str]] = {}
    for name, why in refused.items():
        reasons.setdefault(why, []).append(f"`{name}`")
    return "\n".join([*lines, "", *(f"- {', '.join(names)}: {why}" for why, names in reasons.items())])


def _say(say: Callable[[str], None], where: str, name: str) -> None:
    say(f"{where}: {name}")


def of_study(study_: study.Study, say: Callable[[str], None] = lambda line: None) -> str:
    """All mechanisms for each question of the study's privacy stage, within its report's trust and bits, as Markdown.

    Raises:
        InputError: the study has no privacy stage.

    `say` is told of each mechanism before its noise is solved, which takes some up to ten seconds.
    """
    if not study_.privacy:
        raise InputError("privacy: the study says off; give clients, dimension, epsilon and clip to rank for")
    trust, bits = study_.report.trust, math.inf if study_.report.bits is None else study_.report.bits
    asked = dict.fromkeys(
        (Setting(one.epsilon, one.delta, one.clients, one.dimension, one.clip), MECHANISMS.make(one.mechanism).norm)
        for one in study_.privacy
    )
    parts: list[str] = []
    for setting, norm in asked:
        question = (
            f"{setting.clients} clients, {setting.dimension} coordinates, {norm} norm at most {setting.clip:g}, "
            f"epsilon {setting.epsilon:g} at delta {setting.delta:g}; trust: {trust}; bits: "
            f"{'any' if math.isinf(bits) else format(bits, 'g')}"
        )
        where = f"question {len(parts) + 1} of {len(asked)} (epsilon {setting.epsilon:g}, {norm} norm)"
        ranked = rank(setting, trust, bits, norm, say=partial(_say, say, where))
        parts.append(f"{question}\n\n{table(*ranked)}")
    return "\n\n".join(parts)
