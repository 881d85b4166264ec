"""What the Snakefile needs of fedbound: the frozen plan. Light to import, since every Slurm job parses it twice."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedbound import expense, plan, study, study_file
from fedbound.cluster import logs, orphans, submit
from fedbound.errors import FedboundError
from fedbound.federation import check

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
        study_file.check_simulations(parsed)
        made = plan.make(parsed)
        check.settings(job.scenario for job in made.jobs.get("train", {}).values())
        expense.refuse_above_limit(made)
        path = made.save(Path(plan.RESULTS) / parsed.study / ".plan")
    except FedboundError as error:
        print(f"fedbound: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    os.environ[PLAN_VARIABLE] = str(path)
    return made


def read_config(paths: Sequence[str | os.PathLike[str]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The study as snakemake's config files and its `--config` say it; files that are not there are passed over.

    Snakemake's own merging is not used: it would leave a part that an overlay replaces its predecessor's options.

    Raises:
        SystemExit: with code 2, after one sentence with file and line, of a file that is not YAML or holds a key twice.
    """
    config: dict[str, Any] = {}
    try:
        for path in paths:
            if Path(path).exists():
                config = study_file.merged(config, study_file.read_yaml(Path(path)))
    except FedboundError as error:
        print(f"fedbound: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return study_file.merged(config, options)


def find_own_commands() -> None:
    """Put the folder of the running interpreter first on PATH.

    `fedbound`, `python` and `mpiexec` are then found where nobody activated the environment, too; and as part of PATH,
    not of a rule, the environment may move without making anything run again.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def in_driver() -> list[str]:
    """Rules whose jobs run where snakemake does: those that `fedbound submit --cores` names."""
    return os.environ.get(submit.LIGHT_VARIABLE, "").split()


def ranks(job: plan.Job) -> int:
    """MPI ranks of the job: one for the server and for each silo one, or as many as `training.ranks_per_silo` says."""
    silos: int = job.scenario["data"]["silos"]
    return silos * int(job.scenario["training"].get("ranks_per_silo", 1)) + 1


def input_flags(job: plan.Job) -> str:
    """The job's inputs as command-line flags, quoted for the shell."""
    return " ".join(f"--input {shlex.quote(f'{name}={path}')}" for name, path in job.inputs.items())


def asked(made: plan.Plan, job: plan.Job, key: str, attempt: int) -> int:
    """What a job asks for: the study's `resources`, and more where a failed attempt shows that it ran out of it.

    The one place where attempts scale anything. `key` is "mem_mb" (megabytes) or "runtime" (minutes).
    """
    value = int(made.resources[job.stage][key])
    return value * attempt if attempt > 1 and key in logs.ran_out_of(Path(job.path)) else value


def take_over(jobs: Iterable[Any]) -> None:
    """Cancel the Slurm jobs that a killed snakemake left for what is about to run; called under snakemake's lock.

    Args:
        jobs: snakemake's jobs that need to run.
    """
    waiting = [(job.rule.name, job.wildcards.scenario) for job in jobs if "scenario" in set(job.wildcards.keys())]
    cancelled = orphans.cancel(waiting, Path.cwd())
    if cancelled:
        print(f"fedbound: cancelled Slurm jobs of an earlier run that was killed: {' '.join(cancelled)}", flush=True)


def say_where_results_are(made: plan.Plan) -> None:
    """After a success: where report and data lie, unless a part was asked for and they are missing or of before."""
    data = Path(made.job("collect", "study").path)
    results = [path for path in (Path(job.path) for job in made if job.stage != "collect") if path.exists()]
    if data.exists() and all(path.stat().st_mtime <= data.stat().st_mtime for path in results):
        print(
            f"fedbound: the report is {data.with_name('report.html')}; main figures: fedbound summary {data}",
            flush=True,
        )


def report_what_is_there(made: plan.Plan) -> None:
    """After a failure: the report of what is done, and why the rest is not, in `results/<study>/partial/`."""
    print(f"fedbound: some jobs failed; what is done goes to {plan.RESULTS}/{made.study}/partial/", flush=True)
    subprocess.run(["fedbound", "partial", "--plan", os.environ[PLAN_VARIABLE]], check=False)
