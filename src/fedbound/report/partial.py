"""The report of an unfinished study: what is done, and why the rest is not.

It goes to a folder of its own, so that nothing takes it for the study's results, and goes when those are complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from fedbound import study
from fedbound.artifacts import Artifact
from fedbound.errors import InputError
from fedbound.report import stage

FOLDER = "partial"


def run(scenario: study.CollectScenario, inputs: Mapping[str, Path], out: Path) -> Artifact:
    """Collect what is there.

    Raises:
        InputError: nothing is there yet.
        ArtifactError: the folder cannot be written.
    """
    if not any(path.exists() for path in inputs.values()):
        raise InputError(f"nothing of the study {scenario.study!r} is done yet; there is nothing to report")
    return stage.run(scenario, inputs, out, allow_holes=True)


def summary(artifact: Artifact) -> str:
    """One line for each hole, and how many artifacts there are."""
    holes = artifact["scenarios"].query("status == 'missing'")
    lines = [f"missing {row.stage}/{row.stem}: {row.error}" for row in holes.itertuples()]
    total = len(artifact["scenarios"])
    return "\n".join([*lines, f"{total - len(holes)} of {total} artifacts are there"])


def forget(folder: Path) -> None:
    """Remove the partial report of a study in `folder` that is now complete."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
