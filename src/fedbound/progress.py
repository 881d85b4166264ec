"""What of a study is done, what would run, and why, in the study's own words: `fedbound plan`.

A job's name holds a digest of all that it reads, so a finished job is one whose artifact is there. An artifact that is
there and bears no job's name was made by the study as it was before an edit: the job most like it says which keys the
edit changed. Other jobs are new, and differ from what is there by the values that were added (a seed, a codec).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fedbound.artifacts import canonical
from fedbound.plan import RESULTS, STAGES, Job, Plan

State = Literal["done", "new", "changed", "again"]
_KEYS = {  # of scenarios that do not call a thing as the study does
    "seed": "seeds",
    "silos": "data.silos",
    "mode": "exchange.mode",
    "error_feedback": "exchange.error_feedback",
    "downlink": "exchange.downlink",
    "downlink_bound": "exchange.downlink_bound",
    "bound_mode": "exchange.bound_mode",
}
Flat = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """One job: whether it would run, why, and the finished artifact that is most like it.

    `state`: done; new: nothing like it was there; changed: it takes the place of an artifact that no job has any more;
    again: its artifact is there, but something that it reads is made anew.
    """

    job: Job
    state: State
    why: str = ""
    nearest: Path | None = None
    kept: int = -1  # round from which a checkpoint lets it go on; -1: none


def standings(plan: Plan, root: Path = Path()) -> list[Standing]:
    """The standing of every job of a plan, stage by stage; `root` is the folder that holds `results`."""
    runs: set[str] = set()
    found = []
    for stage in STAGES:
        lookup = _Lookup(plan, stage, root) if stage != "collect" else None
        for job in plan.jobs[stage].values():
            standing = _standing(job, runs, lookup, root)
            if standing.state != "done":
                runs.add(job.path)
            found.append(standing)
    return found


def _standing(job: Job, runs: set[str], lookup: _Lookup | None, root: Path) -> Standing:
    path = root / job.path
    if path.exists():
        read = [name for name, one in job.inputs.items() if one in runs or _newer(root / one, path)]
        if not read:
            return Standing(job, "done", nearest=path)
        return Standing(job, "again", f"{_names(read)} made anew", path)
    if lookup is None:
        return Standing(job, "new", "not collected yet")
    state, why, nearest = lookup.explain(job)
    return Standing(job, state, why, nearest, _round_kept(path))


def _newer(one: Path, other: Path) -> bool:
    return one.exists() and one.stat().st_mtime_ns > other.stat().st_mtime_ns


def _names(inputs: list[str]) -> str:
    counts = Counter(name.partition("/")[0] for name in inputs)
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())


def _round_kept(path: Path) -> int:
    folder = path.parent / ".checkpoints" / path.stem
    return max((int(p.stem.split("_")[1]) for p in folder.glob("*/epoch-*/server_*.npz")), default=-1)


class _Lookup:
    """The artifacts of a stage that are there, by what their scenarios say, and which job takes the place of which."""

    def __init__(self, plan: Plan, stage: str, root: Path):
        jobs = plan.jobs[stage].values()
        left = [(path, flatten(scenario)) for path in leftovers(plan, stage, root) if (scenario := scenario_of(path))]
        there = [(root / j.path, flatten(j.scenario)) for j in jobs if (root / j.path).exists()] + left
        missing = sorted((job.stem, flatten(job.scenario)) for job in jobs if not (root / job.path).exists())
        self.flat = dict(there)
        self.paths = list(self.flat)
        known = dict(missing)
        apart = _distances(list(known.values()), [self.flat[path] for path in self.paths])
        self.row = {stem: apart[i] for i, stem in enumerate(known)}
        matched = _pairs(apart[:, len(self.paths) - len(left) :])
        self.replaces = {list(known)[i]: left[j][0] for i, j in matched}

    def explain(self, job: Job) -> tuple[State, str, Path | None]:
        """State, reason and the artifact most like it."""
        if not self.paths:
            return "new", "nothing of this stage is there yet", None
        flat = flatten(job.scenario)
        if job.stem in self.replaces:
            path = self.replaces[job.stem]
            said = [f"{k} {_shown(before)} -> {_shown(now)}" for k, before, now in changes(self.flat[path], flat)]
            return "changed", "; ".join(said) or "what it reads is another", path
        path = self.paths[int(np.argmin(self.row[job.stem]))]
        said = [f"{key} {_shown(now)}" for key, _, now in changes(self.flat[path], flat)]
        return "new", "; ".join(said) or "what it reads is new", path


def _distances(ones: Sequence[Flat], others: Sequence[Flat]) -> np.ndarray:
    """How much each differs from each: two for a key with another value, one for a key that only one of them has.

    Returns:
        int32, one row for each of `ones` and one column for each of `others`.
    """
    number: dict[tuple[str, Any], int] = {}
    words = [[number.setdefault(item, len(number)) for item in flat.items()] for flat in (*ones, *others)]
    says = np.zeros((len(words), len(number)), np.float32)
    for row, mine in enumerate(words):
        says[row, mine] = 1
    a, b = says[: len(ones)], says[len(ones) :]
    return np.asarray(a.sum(1)[:, None] + b.sum(1)[None, :] - 2 * (a @ b.T), np.int32)


def _pairs(apart: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of a row and a column, the most alike first; each row and each column is in one of them at most."""
    rows, columns = set(range(apart.shape[0])), set(range(apart.shape[1]))
    for at in np.argsort(apart, axis=None, kind="stable"):
        row, column = divmod(int(at), apart.shape[1])
        if row in rows and column in columns:
            rows.remove(row)
            columns.remove(column)
            yield row, column
        if not (rows and columns):
            return


_NEVER = object()  # equal to nothing


def leftovers(plan: Plan, stage: str, root: Path = Path()) -> list[Path]:
    """Artifacts of a stage that are there and that no job of the plan has the name of."""
    folder = root / RESULTS / plan.study / stage
    return sorted(path for path in folder.glob("[!.]*.h5") if path.stem not in plan.jobs[stage])


def scenario_of(path: Path) -> dict[str, Any]:
    """The scenario that an artifact was made from, unchecked; empty where it cannot be read."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return dict(json.loads(file.attrs["scenario"]))
    except (OSError, KeyError, ValueError):
        return {}


def flatten(scenario: Mapping[str, Any], prefix: str = "") -> Flat:
    """A scenario with the dotted keys of the study: `{"data": {"silos": 4}}` becomes `{"data.silos": 4}`.

    The name of a part stands under the part's own key: `exchange.codec`, and its options below that.
    """
    flat: Flat = {}
    for key, value in scenario.items():
        name = prefix.rstrip(".") if key == "name" and prefix else f"{prefix}{key}"
        name = _KEYS.get(name, name)
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = canonical(value) if isinstance(value, list) else value
    return flat


def changes(before: Flat, now: Flat) -> Iterator[tuple[str, Any, Any]]:
    """Keys that differ with both values, without those that only follow from others that differ."""
    different = [key for key in {**before, **now} if before.get(key, _NEVER) != now.get(key, _NEVER)]
    for key in different:
        absent = key not in now or key not in before
        if before.get(key) is now.get(key) is None:
            continue  # a key that another version of fedbound has, and nobody set
        if any(key.startswith(f"{other}.") for other in different) or (absent and key == "calibration"):
            continue  # options of a part that became another one; bounds that are calibrated now, or no more
        if not _follows(key, different, now):
            yield key, before.get(key), now.get(key)


def _follows(key: str, different: list[str], now: Flat) -> bool:
    """Whether nobody wrote this value: the downlink is as the uplink, and a codec brings what goes with it."""
    same = {"exchange.downlink": "exchange.codec", "exchange.downlink_bound": "exchange.bound"}
    if key in same:
        return same[key] in different and now.get(key) == now.get(same[key])
    brought = key in ("exchange.bound_mode", "exchange.error_feedback") or (
        key == "exchange.bound" and not isinstance(now.get(key), float)
    )
    return brought and "exchange.codec" in different


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
