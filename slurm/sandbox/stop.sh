#!/usr/bin/env bash
# Stop the sandbox that start.sh started: its jobs, its daemons, and its configuration in /etc/slurm. Never touches a
# process or a file of another Slurm. Logs stay in its folder; `--purge` deletes that too.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in '' | --purge) ;; *) die "unknown option '$1'; the only one is --purge" ;; esac
if [ -d "$SANDBOX" ]; then
  stop_sandbox
  [ "${1:-}" != --purge ] || { [ -f "$CONF" ] && owner_of "$CONF" >/dev/null && rm -rf "$SANDBOX"; } ||
    die "$SANDBOX holds no sandbox; not deleting it"
elif [ "$(owner_of "$SYSTEM_CONF" || true)" = "$SANDBOX" ]; then
  stop_sandbox # its folder was deleted under it
fi
