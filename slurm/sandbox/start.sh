#!/usr/bin/env bash
# Start a private Slurm on this one machine: munged, slurmctld and a slurmd for each virtual node. As root, without
# systemd, containers or cgroups. For tests and demonstrations; nothing here is hardened for anything else.
#
#   slurm/sandbox/start.sh        prints the `export SLURM_CONF=...` to use it by; doing it twice changes nothing
#   slurm/sandbox/stop.sh         ends it
#
# Settings, by environment:
#   SLURM_SANDBOX         its folder                    (default: $TMPDIR/fedbound-slurm)
#   SLURM_NODES           virtual nodes, 2 or more      (default: 2)
#   SLURM_CPUS_PER_NODE   CPUs that each claims to have (default: 8, whatever the machine has)
#
# Needs Debian's or Ubuntu's slurm-wlm and munge. Refuses to start where any other Slurm is configured or running.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

NODES=${SLURM_NODES:-2}
CPUS=${SLURM_CPUS_PER_NODE:-8}
HOST=$(hostname -s)

check_settings() {
  [[ $NODES =~ ^[0-9]+$ ]] && [ "$NODES" -ge 2 ] && [ "$NODES" -le 64 ] ||
    die "SLURM_NODES is '$NODES'; give a number from 2 to 64"
  [[ $CPUS =~ ^[0-9]+$ ]] && [ "$CPUS" -ge 1 ] || die "SLURM_CPUS_PER_NODE is '$CPUS'; give a number of 1 or more"
  [[ $SANDBOX = /* && $SANDBOX != *[[:space:]]* ]] ||
    die "SLURM_SANDBOX is '$SANDBOX'; give an absolute path without spaces"
  [ ${#SANDBOX} -le 80 ] || die "SLURM_SANDBOX is longer than the 80 characters a socket's path leaves; give a shorter one"
}

check_packages() {
  local tool
  for tool in slurmctld slurmd munged srun sbatch squeue sinfo scontrol scancel; do
    command -v "$tool" >/dev/null ||
      die "$tool is not installed; on Debian or Ubuntu: apt-get install --no-install-recommends slurm-wlm munge"
  done
  [ "$(id -u)" = 0 ] || die "needs root, because slurmd starts jobs as other users do; use a container or a virtual machine"
}

# Any sign of another Slurm ends it here: commands meant for a throw-away must never reach a cluster.
refuse_a_real_slurm() {
  local file other proc pid
  if [ -n "${SLURM_CONF:-}" ] && [ "$SLURM_CONF" != "$CONF" ]; then
    die "SLURM_CONF names another Slurm ($SLURM_CONF); unset it first"
  fi
  for file in /etc/slurm-llnl/slurm.conf /usr/local/etc/slurm.conf /run/slurm/conf/slurm.conf; do
    [ ! -e "$file" ] || die "a Slurm configuration exists at $file; the sandbox starts only where there is none"
  done
  if [ -e "$SYSTEM_CONF" ] || [ -L "$SYSTEM_CONF" ]; then
    other=$(owner_of "$SYSTEM_CONF") ||
      die "a Slurm configuration exists at $SYSTEM_CONF; the sandbox starts only where there is none"
    # Another sandbox's file is a leftover once none of its daemons lives.
    [ "$other" = "$SANDBOX" ] || [ -z "$(daemons_of "$other")" ] ||
      die "another sandbox is running; stop it first: SLURM_SANDBOX=$other slurm/sandbox/stop.sh"
  fi
  for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    case $(cat "$proc/comm" 2>/dev/null) in slurmctld | slurmd | slurmdbd | sackd) ;; *) continue ;; esac
    alive "$pid" || continue
    case $(command_of "$pid") in *"$SANDBOX/"*) ;; *)
      die "another Slurm is running here ($(cat "$proc/comm"), process $pid); the sandbox starts only where there is none"
      ;;
    esac
  done
}

running() {
  [ "$(owner_of "$SYSTEM_CONF" || true)" = "$SANDBOX" ] &&
    cmp -s "$CONF" "$SYSTEM_CONF" &&
    [ "$(grep -c ^NodeName= "$CONF")" = "$NODES" ] &&
    SLURM_CONF=$CONF timeout 5 scontrol ping 2>/dev/null | grep -q 'is UP' &&
    [ "$(nodes_up)" = "$NODES" ]
}

nodes_up() { SLURM_CONF=$CONF timeout 5 sinfo -h -N -r -t idle,mix,alloc -o %N 2>/dev/null | sort -u | wc -l; }

write_configuration() {
  local node memory
  memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  {
    cat <<CONF
$MARK$SANDBOX
ClusterName=sandbox
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=17817
# The daemons listen on the loopback interface only.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$SANDBOX/run/munge.socket
StateSaveLocation=$SANDBOX/state
SlurmdSpoolDir=$SANDBOX/spool/%n
SlurmctldPidFile=$SANDBOX/run/slurmctld.pid
SlurmdPidFile=$SANDBOX/run/slurmd-%n.pid
SlurmctldLogFile=$SANDBOX/log/slurmctld.log
SlurmdLogFile=$SANDBOX/log/slurmd-%n.log
MailProg=/bin/true
# No cgroups: linuxproc follows the process tree, task/none binds nothing.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmi2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# A node may claim more CPUs than the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1,sched_min_interval=0
# squeue still shows a finished job when snakemake asks for it.
MinJobAge=300
# Job ids never come back in a later sandbox: MPICH names its shared memory after the job's id, and stumbles over what a
# killed job of the same id left there.
FirstJobId=$(($(date +%s) % 60000000 + 1))
KillWait=3
InactiveLimit=0
SlurmctldTimeout=60
SlurmdTimeout=60
PropagateResourceLimits=NONE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$SANDBOX/log/jobs.log
CONF
    for node in $(seq "$NODES"); do
      echo "NodeName=n$node NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((17820 + node)) CPUs=$CPUS Boards=1" \
        "SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$((memory / NODES)) State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=n[1-$NODES] Default=YES MaxTime=24:00:00 State=UP"
  } >"$CONF"
  mkdir -p "$(dirname "$SYSTEM_CONF")"
  cp "$CONF" "$SYSTEM_CONF"
}

start_daemons() {
  local node
  head -c 1024 /dev/urandom >"$SANDBOX/etc/munge.key"
  chmod 400 "$SANDBOX/etc/munge.key"
  # Descriptor 9 is start.sh's own lock: a daemon that kept it would hold the lock as long as it lives.
  munged --force --key-file="$SANDBOX/etc/munge.key" --socket="$SANDBOX/run/munge.socket" \
    --pid-file="$SANDBOX/run/munged.pid" --log-file="$SANDBOX/log/munged.log" \
    --seed-file="$SANDBOX/state/munged.seed" --num-threads=2 9>&-
  slurmctld -f "$CONF" 9>&-
  for node in $(seq "$NODES"); do
    mkdir -p "$SANDBOX/spool/n$node"
    slurmd -N "n$node" -f "$CONF" 9>&-
  done
}

await_nodes() {
  for _ in $(seq 150); do
    [ "$(nodes_up)" -lt "$NODES" ] || return 0
    sleep 0.2
  done
  return 1
}

check_settings
check_packages
refuse_a_real_slurm
mkdir -p "$SANDBOX"
[ -O "$SANDBOX" ] || die "$SANDBOX belongs to another user; set SLURM_SANDBOX to a folder of your own"
exec 9>"$SANDBOX/lock"
flock -w 60 9 || die "another start.sh has held $SANDBOX/lock for a minute; end it first"

if running; then
  say "already running, $NODES nodes"
else
  stop_sandbox # what a crash left
  rm -rf "$SANDBOX"/{state,spool}
  mkdir -p "$SANDBOX"/{etc,run,log,state,spool}
  chmod 755 "$SANDBOX" "$SANDBOX"/{etc,run,log,state,spool}
  export SLURM_CONF=$CONF
  write_configuration
  if ! start_daemons 2>"$SANDBOX/log/start.log" || ! await_nodes; then
    tail -n 20 "$SANDBOX"/log/{start,slurmctld}.log >&2 2>/dev/null || true
    stop_sandbox
    die "Slurm did not come up; its logs are in $SANDBOX/log"
  fi
  say "up, $NODES nodes of $CPUS CPUs; finished jobs are listed in $SANDBOX/log/jobs.log"
fi
echo "export SLURM_CONF=$CONF"
