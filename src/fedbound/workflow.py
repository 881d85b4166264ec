"""What the Snakefile needs of fedbound: the frozen plan. Light to import, since every Slurm job parses it twice."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedbound import plan, study, study_file
from fedbound.errors import FedboundError

PLAN_VARIABLE = "FEDBOUND_PLAN"  # in the environment and not in a rule's params: resources in it rerun nothing


def frozen_plan(config: Mapping[str, Any], *, main: bool) -> plan.Plan:
    """The study's plan.

    Snakemake's main process makes the plan from the study, saves it and names the file in the environment. A job's own
    snakemake, on whatever node, loads that file: an edit of the study while jobs wait changes nothing under them.

    Raises:
        SystemExit: with code 2, after one sentence, when the study is refused.
    """
    try:
        if not main and os.environ.get(PLAN_VARIABLE):
            return plan.Plan.load(os.environ[PLAN_VARIABLE])
        parsed = study.parse(config)
        study_file.check_data(parsed)
        study_file.check_codecs(parsed)
        made = plan.make(parsed)
        path = made.save(Path(plan.RESULTS) / parsed.study / ".plan")
    except FedboundError as error:
        print(f"fedbound: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    os.environ[PLAN_VARIABLE] = str(path)
    return made


def check_files(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Refuse a study file that is not YAML, or holds a key twice, before snakemake reads it.

    Raises:
        SystemExit: with code 2, after one sentence with file and line.
    """
    try:
        for path in paths:
            if Path(path).exists():
                study_file.read_yaml(Path(path))
    except FedboundError as error:
        print(f"fedbound: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def find_own_commands() -> None:
    """Put the folder of the running interpreter first on PATH.

    `fedbound`, `python` and `mpiexec` are then found where nobody activated the environment, too; and as part of PATH,
    not of a rule, the environment may move without making anything run again.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def input_flags(job: plan.Job) -> str:
    """The job's inputs as command-line flags, quoted for the shell."""
    return " ".join(f"--input {shlex.quote(f'{name}={path}')}" for name, path in job.inputs.items())
