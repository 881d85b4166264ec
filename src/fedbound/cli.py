"""The command line. A stage command reads a frozen scenario and writes one artifact; the rest is for people.

Exit codes: 0 the artifact is complete; 1 the run failed; 2 bad input, with one sentence on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedbound import __version__
from fedbound.bench import BENCHES
from fedbound.errors import FedboundError, InputError

if TYPE_CHECKING:
    from fedbound.artifacts import Artifact
    from fedbound.plan import Plan

MPI_STAGES = ("profile", "train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except FedboundError as error:
        return _fail(error, arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("fedbound: interrupted", file=sys.stderr, flush=True)
        return 130


def _fail(error: FedboundError, arguments: argparse.Namespace) -> int:
    """Say why, once for all ranks of an MPI job, and end them: they would wait for this one's messages for ever."""
    from fedbound.federation.transports import last_words

    of_mpi_job = arguments.command in MPI_STAGES and arguments.transport == "mpi"
    last_words.end(str(error), error.exit_code, of_mpi_job=of_mpi_job)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedbound", description="Cross-silo federated learning studies: compression, privacy, simulation."
    )
    parser.add_argument("--version", action="version", version=f"fedbound {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, text in _STAGES.items():
        _stage_parser(commands.add_parser(stage, help=text), stage)
    check = commands.add_parser("check", help="validate a study and say how many jobs it has")
    check.add_argument("study", type=Path, nargs="+", help="the study, and files that change it, in order")
    check.set_defaults(run=_check)
    plan = commands.add_parser("plan", help="what of a study is done, what would run and why, and what that costs")
    _study_or_plan(plan)
    plan.add_argument("--jobs", action="store_true", help="list each job that would run")
    plan.set_defaults(run=_plan)
    submit = commands.add_parser("submit", help="run a study's snakemake as a small Slurm job of its own")
    submit.add_argument("study", type=Path, nargs="*", help="the study, and files that change it, in order")
    submit.add_argument("--site", type=Path, metavar="FILE.yaml", help="your site's overlay, as in slurm/sites/")
    submit.add_argument("--time", type=int, default=1440, metavar="MINUTES", help="its time limit (a day)")
    submit.add_argument(
        "--cores",
        type=int,
        default=1,
        metavar="N",
        help="above 1, cells of privacy and simulate run in it, one on each",
    )
    submit.add_argument(
        "--mem", type=int, metavar="MB", help="its memory, megabytes (2000, and what cells in it ask for)"
    )
    submit.add_argument("--snakemake", default="", metavar="'OPTIONS'", help="more options of snakemake, in one word")
    submit.set_defaults(run=_submit)
    partial = commands.add_parser("partial", help="report what a study has so far, with the reasons for its holes")
    _study_or_plan(partial)
    partial.set_defaults(run=_partial)
    inspect = commands.add_parser("inspect", help="show an artifact, or compare the contents of two")
    inspect.add_argument("paths", type=Path, nargs="*", metavar="FILE")
    inspect.add_argument("--table", help="print this table as CSV")
    inspect.add_argument("--diff", type=Path, nargs=2, metavar=("A", "B"), help="two artifacts, or two result folders")
    inspect.set_defaults(run=_inspect)
    summary = commands.add_parser("summary", help="the main figures of a collected study")
    summary.add_argument("study", type=Path, metavar="STUDY.h5")
    summary.set_defaults(run=_summary)
    bench = commands.add_parser("bench", help="measure fedbound against its peers")
    bench.add_argument("name", metavar="NAME", help=f"one of: {', '.join(BENCHES)}")
    bench.add_argument(
        "--quick", action="store_true", help="smaller and less precise: does it run, is it roughly right"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="the figures as a list of flat rows")
    bench.add_argument("--out", type=Path, metavar="FILE.h5", help="the same as an artifact")
    bench.add_argument("--plot", type=Path, metavar="FILE.png", help="the figures as a picture")
    bench.set_defaults(run=_bench)
    audit = commands.add_parser("audit", help="attack a study's training runs: canaries, members, codecs")
    audit.add_argument("study", type=Path, nargs="+", help="the study, and files that change it, in order")
    audit.add_argument(
        "--canaries", type=int, default=1000, metavar="M", help="most canaries of a private run; 0: none"
    )
    audit.add_argument(
        "--models", type=int, default=0, metavar="N", help="shadow runs of each run for membership inference; 0: none"
    )
    audit.add_argument("--pairs", type=int, default=200, metavar="P", help="pairs of updates per codec; 0: none")
    audit.add_argument("--json", type=Path, metavar="FILE", help="the figures as a list of flat rows")
    audit.set_defaults(run=_audit)
    rank = commands.add_parser("rank", help="which DP mechanism for a study's clients, dimension, epsilon and bits")
    rank.add_argument("study", type=Path, nargs="+", help="the study, and files that change it, in order")
    rank.set_defaults(run=_rank)
    schema = commands.add_parser("schema", help="JSON Schema of the study file, for editors")
    schema.set_defaults(run=_schema)
    return parser


def _study_or_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, nargs="*", help="the study, and files that change it, in order")
    parser.add_argument("--plan", type=Path, metavar="PLAN.json", help="a plan that snakemake saved, instead")


_STAGES = {
    "profile": "measure what training, codecs and links cost (MPI)",
    "calibrate": "find the largest error bound that keeps accuracy",
    "train": "train a federation with compressed exchange (MPI)",
    "privacy": "measure what a DP mechanism costs",
    "simulate": "predict round times at scale",
    "collect": "gather all artifacts into one HDF5 file and one report",
}


def _stage_parser(parser: argparse.ArgumentParser, stage: str) -> None:
    parser.add_argument("--scenario", required=True, metavar="JSON|FILE", help="the resolved scenario")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=FILE", help="an artifact it reads")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.h5", help="the artifact to write")
    if stage == "collect":
        parser.add_argument(
            "--allow-holes", action="store_true", help="collect what is there, and say why the rest is missing"
        )
    if stage in MPI_STAGES:
        parser.add_argument("--ranks", type=int, metavar="N", help="MPI ranks that must have been started")
        parser.add_argument("--transport", default="mpi", help="mpi (default) or local: all silos in this process")
    if stage == "train":
        parser.add_argument("--checkpoint-every", type=int, default=1, metavar="K", help="rounds between checkpoints")
        parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="default: beside --out, by its name")
        parser.add_argument(
            "--wait", type=float, default=60.0, metavar="SECONDS", help="await another job on the same scenario so long"
        )
        parser.add_argument("--server-hosts", action="store_true", help="rank 0 holds silos as well (few ranks; sync)")
    parser.set_defaults(run=lambda arguments: _run_stage(stage, arguments))


def _run_stage(stage: str, arguments: argparse.Namespace) -> None:
    from fedbound import artifacts

    scenario = _scenario(stage, arguments.scenario)
    inputs = _inputs(arguments.input)
    artifact = _RUNNERS[stage](scenario, inputs, arguments)
    if artifact is not None and stage != "train":  # train writes its own before it lets its checkpoints go
        artifacts.write(arguments.out, artifact)
    if artifact is not None:
        print(f"wrote {arguments.out}", flush=True)


def _bench(arguments: argparse.Namespace) -> None:
    from fedbound import bench
    from fedbound.bench import rows

    module = bench.get(arguments.name)
    measured = bench.run(arguments.name, arguments.quick, lambda line: print(line, file=sys.stderr, flush=True))
    print(module.table(measured))
    if arguments.json:
        rows.write_json(arguments.json, measured)
    if arguments.out:
        rows.write_artifact(arguments.out, arguments.name, arguments.quick, measured)
    if arguments.plot:
        module.plot(measured, arguments.plot)


def _audit(arguments: argparse.Namespace) -> None:
    from fedbound import study_file
    from fedbound.bench import rows, study_audits

    effort = study_audits.Effort(arguments.canaries, arguments.models, arguments.pairs)
    read = study_file.read(arguments.study)
    measured = study_audits.measure(read, effort, lambda line: print(line, file=sys.stderr, flush=True))
    print(study_audits.table(measured))
    if arguments.json:
        rows.write_json(arguments.json, measured)


def _rank(arguments: argparse.Namespace) -> None:
    from fedbound import study_file
    from fedbound.privacy import ranking

    read = study_file.read(arguments.study)
    print(ranking.of_study(read, lambda line: print(line, file=sys.stderr, flush=True)))


def _scenario(stage: str, text: str) -> Any:
    """The scenario, from JSON or from a file that holds it."""
    from pydantic import ValidationError

    from fedbound import registry, study

    model: Any = getattr(study, f"{stage.capitalize()}Scenario")
    source = text
    if not text.lstrip().startswith("{"):
        try:
            source = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or "not text"
            raise InputError(f"--scenario: cannot read {text!r} ({problem}); give JSON or a file of it") from None
    try:
        return model.model_validate(json.loads(source))
    except ValueError as error:
        if isinstance(error, ValidationError):
            raise InputError(f"--scenario: {registry.explain(error, model)}") from None
        raise InputError(f"--scenario is not JSON ({error}); give a scenario as the plan holds it") from None


def _inputs(pairs: Sequence[str]) -> dict[str, Path]:
    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not name or not path:
            raise InputError(f"--input: {pair!r} is refused: write NAME=FILE")
        if not Path(path).exists():
            raise InputError(f"--input: {path} does not exist; run the stage that writes it")
        found[name] = Path(path)
    return found


def _profile(scenario: Any, inputs: dict[str, Path], arguments: argparse.Namespace) -> Artifact | None:
    from fedbound.profiling import stage

    return stage.run(scenario, inputs, transport=arguments.transport, ranks=arguments.ranks)


def _calibrate(scenario: Any, inputs: dict[str, Path], arguments: argparse.Namespace) -> Artifact | None:
    from fedbound.calibration import stage

    return stage.run(scenario, inputs)


def _train(scenario: Any, inputs: dict[str, Path], arguments: argparse.Namespace) -> Artifact | None:
    from fedbound import artifacts
    from fedbound.federation import watch

    out: Path = arguments.out
    if arguments.checkpoint_every < 1:
        raise InputError(f"--checkpoint-every: {arguments.checkpoint_every} is refused: give at least 1")
    if arguments.transport == "mpi":
        watch.begin()  # before torch and MPI are there
    from fedbound.auditing import runs
    from fedbound.federation import stage

    return stage.run(
        scenario,
        inputs,
        checkpoints=arguments.checkpoints or out.parent / ".checkpoints" / out.stem,
        transport=arguments.transport,
        checkpoint_every=arguments.checkpoint_every,
        wait_seconds=arguments.wait,
        server_hosts=arguments.server_hosts,
        audit=lambda artifact: runs.with_audit(scenario, artifact),
        write=lambda artifact: artifacts.write(out, artifact),
        out=out,
        ranks=arguments.ranks,
    )


def _privacy(scenario: Any, inputs: dict[str, Path], arguments: argparse.Namespace) -> Artifact | None:
    from fedbound.privacy import stage

    return stage.run(scenario, inputs)


def _simulate(scenario: Any, inputs: dict[str, Path], arguments: argparse.Namespace) -> Artifact | None:
    from fedbound.simulation import stage

    return stage.run(scenario, inputs)


def _collect(scenario: Any, inputs: dict[str, Path], arguments: argparse.Namespace) -> Artifact | None:
    from fedbound.plan import Plan
    from fedbound.report import partial, stage

    if "plan" in inputs:
        plan = Plan.load(inputs.pop("plan"))
        inputs |= {name: Path(path) for name, path in plan.job("collect", "study").inputs.items()}
    artifact = stage.run(scenario, inputs, arguments.out, allow_holes=arguments.allow_holes)
    partial.forget(arguments.out.parent)
    return artifact


_RUNNERS: dict[str, Callable[[Any, dict[str, Path], argparse.Namespace], Artifact | None]] = {
    "profile": _profile,
    "calibrate": _calibrate,
    "train": _train,
    "privacy": _privacy,
    "simulate": _simulate,
    "collect": _collect,
}


def _check(arguments: argparse.Namespace) -> None:
    from fedbound import plan, study_file
    from fedbound.federation import check

    parsed = study_file.read(arguments.study)
    jobs = plan.make(parsed).jobs
    trained = [job.scenario for job in jobs.get("train", {}).values()]
    check.settings(trained)
    check.models(trained)
    print(f"{parsed.study} is a valid study; jobs: " + ", ".join(f"{len(v)} {k}" for k, v in jobs.items()))


def _plan_of(arguments: argparse.Namespace) -> Plan:
    from fedbound import plan, study_file

    if arguments.plan:
        return plan.Plan.load(arguments.plan)
    return plan.make(study_file.read(arguments.study or [Path("config/config.yaml")]))


def _plan(arguments: argparse.Namespace) -> None:
    from fedbound import outlook

    print(outlook.text(_plan_of(arguments), every_job=arguments.jobs))


def _submit(arguments: argparse.Namespace) -> None:
    import shlex

    from fedbound import expense, plan, study_file
    from fedbound.cluster.submit import LIGHT, Driver, submit

    if arguments.cores < 1:
        raise InputError(f"--cores: {arguments.cores} is refused: give at least 1")
    default = Path("config/config.yaml")
    made = plan.make(study_file.read(arguments.study or [default]))
    expense.refuse_above_limit(made)
    options = shlex.split(arguments.snakemake)
    cells = arguments.cores * max(made.resources[stage]["mem_mb"] for stage in LIGHT) if arguments.cores > 1 else 0
    memory = arguments.mem or 2000 + cells
    driver = Driver(made.study, arguments.study, arguments.site, arguments.time, memory, options, arguments.cores)
    job = submit(driver)
    print(f"Slurm job {job} runs the study {made.study}; it says how it goes in logs/slurm/driver-{job}.log")


def _partial(arguments: argparse.Namespace) -> None:
    from fedbound import artifacts, study
    from fedbound.report import partial

    made = _plan_of(arguments)
    job = made.job("collect", "study")
    out = Path(job.path).parent / partial.FOLDER / "study.h5"
    inputs = {name: Path(path) for name, path in job.inputs.items()}
    artifact = partial.run(study.CollectScenario(**job.scenario), inputs, out)
    artifacts.write(out, artifact)
    print(partial.summary(artifact))
    print(f"wrote {out.parent}/report.html and {out}")


def _inspect(arguments: argparse.Namespace) -> int:
    from fedbound import artifacts

    if arguments.diff:
        return _diff(*arguments.diff)
    if not arguments.paths:
        raise InputError("inspect: give a file, or --diff A B")
    for path in arguments.paths:
        artifact = artifacts.read(path)
        if arguments.table:
            if arguments.table not in artifact.tables:
                raise InputError(f"--table: no table {arguments.table!r}; possible: {', '.join(artifact.tables)}")
            print(artifact[arguments.table].to_csv(index=False), end="")
            continue
        print(f"{path}: {artifact.stage} of study {artifact.study!r}, seed {artifact.seed}")
        print(f"  fedbound {artifact.package_version}, content {artifact.content_digest()[:16]}")
        print(f"  scenario {json.dumps(artifact.scenario)}")
        for name, table in artifact.tables.items():
            rows = len(next(iter(table.values())).values) if table else 0
            print(f"  table {name}: {rows} rows; {', '.join(table)}")
        for key, value in artifact.provenance.items():
            print(f"  {key}: {value}")
    return 0


def _diff(a: Path, b: Path) -> int:
    """Compare two artifacts, or all artifacts of two folders by their relative paths; 1 when contents differ."""
    from fedbound import artifacts

    if a.is_dir() != b.is_dir():
        raise InputError(f"--diff: give two files or two folders, not {a} and {b}")
    names = _names(a) | _names(b) if a.is_dir() else {""}
    found = 0
    for name in sorted(names):
        left, right = (a / name, b / name) if name else (a, b)
        missing = [str(path) for path in (left, right) if not path.exists()]
        lines = (
            [f"missing: {missing[0]}"]
            if missing
            else artifacts.differences(artifacts.read(left), artifacts.read(right))
        )
        for line in lines:
            print(f"{name or left.name}: {line}")
        found += len(lines)
    print(f"{len(names)} compared, {found} differences (measured columns and provenance do not count)")
    return 1 if found or not names else 0


def _names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*.h5") if not p.name.startswith(".")}


def _summary(arguments: argparse.Namespace) -> None:
    from fedbound.report.summary import summary

    print(summary(arguments.study))


def _schema(arguments: argparse.Namespace) -> None:
    from fedbound import study_schema

    print(json.dumps(study_schema.json_schema(), indent=2))


if __name__ == "__main__":
    sys.exit(main())
