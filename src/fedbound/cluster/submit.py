"""`fedbound submit`: snakemake itself as a small Slurm job, where login nodes kill what runs for long.

Slurm sends the driver SIGINT two minutes before its time limit, and snakemake then cancels its jobs; SIGTERM would make
it wait for them instead. Submitted again, the study goes on. Drivers of one study never run at the same time: Slurm
holds a second one back until the first has ended, so a study outlasts a partition's time limit by submitting twice.

A driver of several cores runs the cells of `LIGHT` stages itself, one on each core: they take seconds, and a Slurm job
of their own would take longer to start than to run.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbound.errors import FedboundError, InputError

WARNING_SECONDS = 120  # between SIGINT and the time limit
LIGHT = ("privacy", "simulate")
LIGHT_VARIABLE = "FEDBOUND_IN_DRIVER"  # read by the Snakefile: stages whose jobs run where snakemake does


@dataclass(frozen=True)
class Driver:
    """The job that runs snakemake: one core, or more to run light cells on, and what its site asks for."""

    study: str
    files: Sequence[Path]
    site: Path | None
    minutes: int
    mem_mb: int
    options: Sequence[str]
    cores: int = 1

    def command(self) -> list[str]:
        """The sbatch call."""
        site = _default_resources(self.site)
        call = ["sbatch", "--parsable", f"--job-name=fedbound-{self.study}", "--dependency=singleton", "--no-requeue"]
        call += ["--ntasks=1", f"--cpus-per-task={self.cores}", f"--mem={self.mem_mb}", f"--time={self.minutes}"]
        call += [f"--signal=B:INT@{WARNING_SECONDS}", "--output=logs/slurm/driver-%j.log"]
        for key, flag in (("slurm_account", "--account"), ("slurm_partition", "--partition"), ("qos", "--qos")):
            if site.get(key):
                call.append(f"{flag}={site[key]}")
        return [*call, "--wrap", f"exec {shlex.join(self.snakemake())}"]

    def snakemake(self) -> list[str]:
        """What the job runs."""
        call = ["snakemake", *self.options, "--profile", "slurm"]
        call += ["--workflow-profile", str(self.site)] if self.site else []
        call += ["--local-cores", str(self.cores)] if self.cores > 1 else []
        # last: it takes all words that follow it, and targets among the options would be read as files
        return call + (["--configfile", *map(str, self.files)] if self.files else [])


def submit(driver: Driver) -> str:
    """Submit the driver; returns its Slurm job id.

    Raises:
        InputError: there is no Slurm, or no profile for it in this folder.
        FedboundError: Slurm refuses the job.
    """
    if not Path("slurm/profile.yaml").exists():
        raise InputError("submit: there is no slurm/profile.yaml here; start it in the repository's folder")
    Path("logs/slurm").mkdir(parents=True, exist_ok=True)
    # the driver must not inherit the size of a job that this is called in
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_")) or k == "SLURM_CONF"}
    environment[LIGHT_VARIABLE] = " ".join(LIGHT) if driver.cores > 1 else ""
    try:
        done = subprocess.run(driver.command(), capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError:
        raise InputError("submit: sbatch is not found; call it on a login node of a Slurm cluster") from None
    if done.returncode:
        raise FedboundError(f"sbatch refused the driver job: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]


def _default_resources(site: Path | None) -> Mapping[str, Any]:
    """Account and partition as the site's overlay gives them to jobs; `site`: a file, or a folder with profile.yaml."""
    from fedbound import study_file

    if site is None:
        return {}
    given = study_file.read_yaml(site / "profile.yaml" if site.is_dir() else site).get("default-resources", {})
    if isinstance(given, Mapping):
        return given
    pairs = (str(one).partition("=") for one in given)
    return {key.strip(): value.strip() for key, _, value in pairs}
