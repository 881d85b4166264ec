"""The throw-away Slurm: it runs jobs, comes back after crashes, goes without a trace, and keeps off any other Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")


def slurm(sandbox, *command: str) -> str:
    done = subprocess.run(command, env=sandbox.env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pid_of(sandbox, daemon: str) -> int:
    return int((sandbox.folder / "run" / f"{daemon}.pid").read_text())


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_that(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_srun_reaches_every_node(sandbox) -> None:
    names = slurm(sandbox, "srun", "-N2", "-n2", "sh", "-c", "echo $SLURMD_NODENAME").split()
    assert sorted(names) == ["n1", "n2"]


def test_finished_jobs_are_listed(sandbox) -> None:
    job = slurm(sandbox, "sbatch", "--parsable", "--wait", "--job-name=listed", "-o", "/dev/null", "--wrap", "exit 0")
    await_that(lambda: any(done["JobId"] == job.strip() for done in sandbox.finished_jobs))
    (entry,) = [done for done in sandbox.finished_jobs if done["JobId"] == job.strip()]
    assert (entry["Name"], entry["JobState"]) == ("listed", "COMPLETED")


def test_a_node_without_slurm_conf_in_its_environment_finds_the_sandbox(sandbox) -> None:
    env = {key: value for key, value in sandbox.env.items() if key != "SLURM_CONF"}
    done = subprocess.run(["srun", "-n1", "true"], env=env, timeout=200, check=False)
    assert done.returncode == 0


def test_it_listens_on_the_loopback_interface_only(sandbox) -> None:
    ports = {17817, 17821, 17822}
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = {int(port, 16): address for line in listening if line[3] == "0A" for address, port in [line[1].split(":")]}
    assert {found[port] for port in ports} == {"0100007F"}


def test_starting_twice_changes_nothing(sandbox, script) -> None:
    before = pid_of(sandbox, "slurmctld")
    again = script("start.sh", SLURM_SANDBOX=str(sandbox.folder))
    assert again.returncode == 0
    assert again.stdout == f"export SLURM_CONF={sandbox.folder}/etc/slurm.conf\n"
    assert pid_of(sandbox, "slurmctld") == before


def test_it_comes_back_after_a_crash_and_orphans_are_ended(sandbox, script, tmp_path) -> None:
    job = f"echo $$ >{tmp_path}/pid; sleep 600"
    slurm(sandbox, "sbatch", "-o", "/dev/null", "--wrap", job)
    await_that(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    for daemon in ("slurmctld", "slurmd-n1", "slurmd-n2"):
        os.kill(pid_of(sandbox, daemon), signal.SIGKILL)
    restarted = script("start.sh", SLURM_SANDBOX=str(sandbox.folder))
    assert restarted.returncode == 0, restarted.stderr
    assert not alive(int((tmp_path / "pid").read_text()))
    assert slurm(sandbox, "squeue", "-h") == ""
    slurm(sandbox, "srun", "-N2", "true")


def test_a_second_sandbox_is_refused(sandbox, script, tmp_path) -> None:
    refused = script("start.sh", SLURM_SANDBOX=str(tmp_path / "second"))
    assert refused.returncode == 1
    assert "another sandbox is running" in refused.stderr
    assert str(sandbox.folder) in refused.stderr
    assert not (tmp_path / "second").exists()


def test_stopping_a_sandbox_that_is_not_there_touches_no_other(sandbox, script, tmp_path) -> None:
    assert script("stop.sh", SLURM_SANDBOX=str(tmp_path / "second")).returncode == 0
    assert script("stop.sh", "--purge", SLURM_SANDBOX=str(tmp_path)).returncode == 1
    assert tmp_path.is_dir()
    slurm(sandbox, "srun", "-N2", "true")


def test_a_slurm_named_by_the_environment_is_refused(script, tmp_path) -> None:
    refused = script("start.sh", SLURM_SANDBOX=str(tmp_path / "own"), SLURM_CONF="/cluster/slurm.conf")
    assert refused.returncode == 1
    assert "SLURM_CONF names another Slurm (/cluster/slurm.conf)" in refused.stderr


@pytest.mark.parametrize("name", ["SLURM_NODES", "SLURM_CPUS_PER_NODE"])
def test_impossible_sizes_are_refused(script, tmp_path, name) -> None:
    refused = script("start.sh", SLURM_SANDBOX=str(tmp_path / "own"), **{name: "0"})
    assert refused.returncode == 1
    assert f"{name} is '0'" in refused.stderr


def test_missing_packages_are_named(script, tmp_path) -> None:
    """With an empty folder in place of the system's, the first missing tool is named, and how to install it."""
    for tool in ("bash", "dirname", "hostname", "id"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    (tmp_path / "hostname").unlink()
    (tmp_path / "hostname").write_text("#!/usr/bin/bash\necho here\n")
    (tmp_path / "hostname").chmod(0o755)
    command = 'PATH=$0; . <(sed "s#:/usr/sbin:/sbin##" "$1/common.sh"); . <(sed "/common.sh/d" "$1/start.sh")'
    scripts = Path(__file__).resolve().parents[2] / "slurm" / "sandbox"
    refused = subprocess.run(
        ["/usr/bin/bash", "-c", command.replace("sed", "/usr/bin/sed"), str(tmp_path), str(scripts)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "slurmctld is not installed; on Debian or Ubuntu: apt-get install" in refused.stderr


class TestOfItsOwn:
    """What needs /etc/slurm to itself: the shared sandbox is stopped before, and started again after."""

    @pytest.fixture(autouse=True)
    def _alone(self, sandbox, script):
        assert script("stop.sh", SLURM_SANDBOX=str(sandbox.folder)).returncode == 0
        yield
        started = script("start.sh", SLURM_SANDBOX=str(sandbox.folder))
        assert started.returncode == 0, started.stderr

    def test_stopping_leaves_no_trace(self, sandbox) -> None:
        assert not SYSTEM_CONF.exists()
        daemons = {"slurmctld", "slurmd", "munged"}
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                name, command = (proc / "comm").read_text().strip(), (proc / "cmdline").read_bytes().decode()
            except OSError:
                continue
            assert not (name in daemons and str(sandbox.folder) in command), command

    def test_a_real_configuration_is_refused_and_left_alone(self, script, tmp_path) -> None:
        SYSTEM_CONF.write_text("ClusterName=real\n")
        try:
            refused = script("start.sh", SLURM_SANDBOX=str(tmp_path / "own"))
            stopped = script("stop.sh", SLURM_SANDBOX=str(tmp_path / "own"))
            kept = SYSTEM_CONF.read_text()
        finally:
            SYSTEM_CONF.unlink()
        assert (refused.returncode, stopped.returncode) == (1, 0)
        assert f"a Slurm configuration exists at {SYSTEM_CONF}" in refused.stderr
        assert kept == "ClusterName=real\n"

    def test_what_a_lost_sandbox_left_is_taken_over(self, script, tmp_path) -> None:
        """Killed as a whole, its folder deleted: its file in /etc/slurm is a leftover, and no real configuration."""
        lost, new = {"SLURM_SANDBOX": str(tmp_path / "lost")}, {"SLURM_SANDBOX": str(tmp_path / "new")}
        assert script("start.sh", **lost).returncode == 0
        leftover = SYSTEM_CONF.read_text()
        assert script("stop.sh", "--purge", **lost).returncode == 0
        SYSTEM_CONF.write_text(leftover)
        started = script("start.sh", **new)
        assert script("stop.sh", "--purge", **new).returncode == 0
        assert started.returncode == 0, started.stderr
        assert not SYSTEM_CONF.exists()
        assert not (tmp_path / "new").exists()
