#!/usr/bin/env bash
# A run on one host with GPUs, reached by ssh.
#
#   launch/gpu_host.sh [--dry-run] HOST run FLAGS…
#   launch/gpu_host.sh [--dry-run] HOST logs | stop
#
# `run` copies this checkout to HOST:~/lfjax, installs it, and starts `python -m lfjax.main FLAGS…`, one
# process with all GPUs, which goes on when the connection ends. `logs` follows it; `stop` has it save
# and stop. The same `run` goes on from there.
#
#   EXTRA   cuda12 (or cuda13), by the host's driver
#
# --dry-run   print the commands, and run none
#
# Needs: ssh and rsync here; on the host a driver, nvidia-smi, and python3 with pip.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

dry=
[[ ${1:-} == --dry-run ]] && dry=1 && shift
case ${1:-} in -h | --help | '') usage && exit ;; esac
host=$1 what=${2:-}
shift
shift || true

case $what in
  run)
    say rsync -a --delete "${stays[@]}" ./ "$host:lfjax/"
    # uv brings a Python that is new enough
    say ssh "$host" "nvidia-smi -L && python3 -m pip install --quiet --user uv && cd lfjax && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/env && VIRTUAL_ENV=~/env ~/.local/bin/uv pip install --quiet -e '.[${EXTRA:-cuda12}]'"
    say ssh "$host" "cd lfjax && $locked && { nohup ~/env/bin/python -u -m lfjax.main $(printf '%q ' "$@")> ~/lfjax.log 2>&1 < /dev/null & echo started; sleep 5; tail -n 5 ~/lfjax.log; }"
    ;;
  logs) say ssh -t "$host" 'tail -n 100 -f lfjax.log' ;;
  stop) say ssh "$host" 'pkill -TERM -f lfjax[.]main' ;;
  *) fail "unknown '$what'; expected run, logs or stop." ;;
esac
