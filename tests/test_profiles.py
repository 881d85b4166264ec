"""The Slurm profile and the site examples: every option exists, and sbatch is asked for what the example says."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fedbound.plan import STAGES

ROOT = Path(__file__).parents[1]
PROFILES = [ROOT / "slurm/profile.yaml", ROOT / "slurm/sandbox/profile.yaml", *sorted(ROOT.glob("slurm/sites/*.yaml"))]
MPI = ("train", "profile")
OWN = {"inside"}  # a resource of the rules themselves: workflow/rules/common.smk
# what the documentation of snakemake-executor-plugin-slurm and of snakemake names
RESOURCES = OWN | {
    *("slurm_account", "slurm_partition", "slurm_extra", "qos", "clusters", "constraint", "runtime", "mem_mb"),
    *("mem_mb_per_cpu", "mpi", "tasks", "tasks_per_node", "tasks_per_gpu", "nodes", "cpus_per_task", "cpus_per_gpu"),
    *("gres", "gpu", "gpu_model", "disk_mb"),
}


def options() -> set[str]:
    """The options that snakemake and the plugins have here, as a profile writes them."""
    from snakemake.cli import get_argument_parser

    known = {option for action in get_argument_parser()._actions for option in action.option_strings}
    return {option.removeprefix("--") for option in known}


@pytest.fixture(params=PROFILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def profile(request) -> dict:
    return yaml.safe_load(request.param.read_text())


def test_there_are_examples_for_what_sites_differ_in() -> None:
    found = {path.stem for path in ROOT.glob("slurm/sites/*.yaml")}
    assert found >= {"account", "gpu", "site-mpi", "spack", "conda", "apptainer", "offline", "threads"}


def test_every_option_is_one_that_snakemake_has(profile) -> None:
    unknown = set(profile) - options()
    assert not unknown


def test_every_resource_is_one_that_the_plugin_or_a_rule_knows(profile) -> None:
    asked = [profile.get("default-resources") or {}, *(profile.get("set-resources") or {}).values()]
    for resources in asked:
        assert set(resources) <= RESOURCES
        assert not {"mem_mb", "mem_mb_per_cpu"} <= set(resources), "the plugin takes one of them"
        assert not {"tasks", "tasks_per_node"} <= set(resources), "the plugin takes one of them"
    rules = {*(profile.get("set-resources") or {}), *(profile.get("set-threads") or {})}
    assert rules <= set(STAGES)


def test_mpi_jobs_get_a_launcher_that_ends_with_a_dead_rank(profile) -> None:
    """A key of a site's profile replaces that of slurm/profile.yaml as a whole, and so must repeat the launcher."""
    resources = profile.get("set-resources") or {}
    if not resources:
        return
    threads = profile.get("set-threads") or {}
    for stage in MPI:
        given = re.fullmatch(r"srun --mpi=(?:pmi2|pmix) -K1(?: -c (\d+))?", resources[stage]["mpi"])
        assert given, stage
        assert int(given[1] or 1) == threads.get(stage, 1), "since Slurm 22.05 srun must be told of threads"
    assert all("mpi" not in asked for stage, asked in resources.items() if stage not in MPI)


def test_no_profile_submits_arrays(profile) -> None:
    assert not {"slurm-array-jobs", "slurm-array-limit"} & set(profile)


def sbatch(profile: dict, stage: str, ranks: int) -> str:
    """The plugin's own sbatch call for a job of this stage."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    class Resources(dict):
        __getattr__ = dict.__getitem__

    asked = Resources({**(profile.get("default-resources") or {}), **profile.get("set-resources", {}).get(stage, {})})
    if stage in MPI:
        asked["tasks"] = ranks
        del asked["mem_mb"]
        asked["mem_mb_per_cpu"] = 2000
    job = SimpleNamespace(resources=asked, threads=(profile.get("set-threads") or {}).get(stage, 1))
    named = {"run_uuid": "u", "slurm_logfile": "l", "comment_str": "c", "workdir": "/w"}
    named |= {"account": f"-A {asked['slurm_account']}", "partition": f"-p {asked['slurm_partition']}"}
    return get_submit_command(job, named) + set_gres_string(job)


@pytest.mark.parametrize(("site", "stage", "words"), [
    ("account", "train", ["-A my_project", "-p standard", "-t 30", "--ntasks=5", "--mem-per-cpu 2000"]),
    ("account", "simulate", ["--ntasks=1", "--mem 2000", "--cpus-per-task=1"]),
    ("gpu", "train", ["-p gpu", "--nodes=1", "--gres=gpu:4", "-C a100", "--ntasks=5", "-t 120"]),
    ("gpu", "simulate", ["-p cpu", "--ntasks=1"]),
    ("site-mpi", "train", ["--nodes=5", "--ntasks=5"]),
    ("threads", "train", ["--cpus-per-task=8", "--ntasks=5"]),
    ("threads", "privacy", ["--cpus-per-task=1"]),
])  # fmt: skip
def test_sbatch_is_asked_for_what_the_example_says(site, stage, words) -> None:
    command = sbatch(yaml.safe_load((ROOT / f"slurm/sites/{site}.yaml").read_text()), stage, ranks=5)
    for word in words:
        assert f" {word} " in f" {command} ".replace("'", ""), word
    assert "--ntasks-per-gpu" not in command


def test_every_rule_runs_inside_of_what_the_site_says() -> None:
    for stage in STAGES:
        text = (ROOT / f"workflow/rules/{stage}.smk").read_text()
        assert "inside=NOTHING" in text
        assert re.search(r"\{resources\.inside\} (python -m mpi4py -m )?fedbound", text), stage
