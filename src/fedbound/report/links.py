"""When does compressing pay? A round of each profiled codec and silo, on the study's links and on the measured one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedbound import schemas
from fedbound.artifacts import Artifact, Table
from fedbound.calibration import resources

BITS = 8e-6  # megabits per byte
MEASURED = "measured"


def tables(profiles: Sequence[tuple[Mapping[str, Any], Artifact]], bandwidths: Sequence[float]) -> dict[str, Table]:
    """Tables `links` and `link_advice` of study.h5.

    Args:
        profiles: keys (stem, setting, codec) and artifact of each profile.
        bandwidths: links that the study simulates, Mbit/s.
    """
    rows: list[dict[str, Any]] = []
    advice: list[dict[str, Any]] = []
    for keys, artifact in profiles:
        costs = list(_costs(artifact))
        gpu = artifact.scenario.get("training", {}).get("device") == "cuda"
        for name, link in [(f"{b:g} Mbit/s", b / BITS) for b in bandwidths] + [(MEASURED, _measured(artifact))]:
            if not (costs and math.isfinite(link) and link > 0):
                continue
            views = resources.view(costs, link, same_device=not gpu)
            shared = {"stem": keys["stem"], "setting": keys["setting"], "link": name}
            rows += [_row(shared, link, view) for view in views]
            if any(view.break_even > 0 for view in views):  # an exact exchange saves nothing to advise on
                sentence = resources.sentence(str(keys["setting"]), views, link)
                advice.append({**shared, "pays": sum(view.pays for view in views), "advice": sentence})
    return {"links": schemas.STUDY_LINKS.table(rows), "link_advice": schemas.STUDY_LINK_ADVICE.table(advice)}


def _row(shared: dict[str, Any], link: float, view: resources.View) -> dict[str, Any]:
    return {
        **shared,
        **vars(view),
        "bandwidth": link * BITS,
        "break_even": view.break_even * BITS,
        "pays": int(view.pays),
    }


def _costs(artifact: Artifact) -> Iterator[resources.Cost]:
    """One silo's costs: seconds as it takes with its node to itself, bytes as the median of its measured rounds."""
    silos = artifact.tables["silos"]
    costs = artifact.tables["costs"]
    for index, silo in enumerate(costs["silo"].values):
        mine = silos["silo"].values == silo
        if not mine.any():
            continue
        raw, up, down = (int(np.median(silos[f"{key}_bytes"].values[mine])) for key in ("raw", "up", "down"))
        keys = ("alone", "alone_evaluate", "alone_encode", "decode")
        yield resources.Cost(int(silo), raw, up, down, *(float(costs[f"{key}_seconds"].values[index]) for key in keys))


def _measured(artifact: Artifact) -> float:
    """The profile's own link, byte/s: the slowest silo's; NaN where it could not be measured."""
    found = artifact.tables["costs"]["bandwidth"].values
    return float(np.min(found)) if len(found) else math.nan
