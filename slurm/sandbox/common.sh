# Shared by start.sh and stop.sh: where the sandbox lies, and what belongs to it.
# shellcheck shell=bash disable=SC2034

PATH=$PATH:/usr/sbin:/sbin # Debian keeps the daemons there, out of some users' PATH

SANDBOX=${SLURM_SANDBOX:-${TMPDIR:-/tmp}/fedbound-slurm}
CONF=$SANDBOX/etc/slurm.conf
# snakemake's job step drops SLURM_CONF from the environment of the rules it runs, so a srun inside a rule finds the
# sandbox only if its configuration is (also) where Slurm looks by itself.
SYSTEM_CONF=/etc/slurm/slurm.conf
MARK='# fedbound sandbox: a throw-away Slurm, not a cluster. Its folder: '

say() { printf 'slurm sandbox: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# The folder of the sandbox that wrote a configuration file; fails for anybody else's file.
owner_of() {
  local first
  [ -f "$1" ] && IFS= read -r first <"$1" && [ "${first#"$MARK"}" != "$first" ] && printf '%s\n' "${first#"$MARK"}"
}

# A process that has ended but that nobody has reaped yet counts as dead.
alive() {
  local stat
  stat=$(cat "/proc/${1:-none}/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  [ "${stat%% *}" != Z ]
}

# Process ids are reused, so a pid file alone proves nothing: every daemon of a sandbox has its folder on its command line.
command_of() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || true; }

# Ids of the living daemons of the sandbox in folder $1.
daemons_of() {
  local proc pid name
  for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    name=$(cat "$proc/comm" 2>/dev/null) || continue
    case $name in slurmctld | slurmd | munged) ;; *) continue ;; esac
    alive "$pid" || continue
    case $(command_of "$pid") in *"$1/"*) printf '%s\n' "$pid" ;; esac
  done
}

# Ids of the living job steps of the sandbox in folder $1: orphans, once their slurmd is gone. (A step rewrites its command
# line and environment, but stays in its slurmd's working folder.)
steps_of() {
  local proc pid
  for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    [ "$(cat "$proc/comm" 2>/dev/null)" = slurmstepd ] && alive "$pid" || continue
    case $(readlink "$proc/cwd") in "$1/"*) printf '%s\n' "$pid" ;; esac
  done
}

# Ids of all processes below $1, the deepest first.
descendants() {
  local stat pid fields
  for stat in /proc/[0-9]*/stat; do
    pid=${stat#/proc/}
    fields=$(cat "$stat" 2>/dev/null) || continue
    fields=${fields##*) }
    fields=${fields#* }
    [ "${fields%% *}" = "$1" ] || continue
    descendants "${pid%/stat}"
    printf '%s\n' "${pid%/stat}"
  done
}

# End the processes given, by SIGTERM, and by SIGKILL those still there after ten seconds.
end() {
  local pid
  for pid in "$@"; do kill "$pid" 2>/dev/null || true; done
  for pid in "$@"; do
    for _ in $(seq 100); do
      alive "$pid" || continue 2
      sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
  done
}

# Stop whatever of this sandbox still runs, whole or in pieces, and give the system's configuration file back.
stop_sandbox() {
  local step
  if [ -f "$CONF" ] && alive "$(cat "$SANDBOX/run/slurmctld.pid" 2>/dev/null)"; then
    SLURM_CONF=$CONF timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 50); do
      [ -n "$(SLURM_CONF=$CONF timeout 5 squeue -h -t running,completing 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  for step in $(steps_of "$SANDBOX"); do
    # shellcheck disable=SC2046
    kill -9 $(descendants "$step") "$step" 2>/dev/null || true
  done
  # shellcheck disable=SC2046
  end $(daemons_of "$SANDBOX")
  rm -f "$SANDBOX"/run/*
  [ "$(owner_of "$SYSTEM_CONF" || true)" != "$SANDBOX" ] || rm -f "$SYSTEM_CONF"
}
