#!/usr/bin/env bash
# Several processes of one run on this machine.
#
#   launch/local.sh [--dry-run] N FLAGS…
#   launch/local.sh 2 --cpu_devices=4 --config configs/cut.py:tiny --workdir runs/two
#
# Starts N times `python -m lfjax.main FLAGS…`, each with its number and the address of the first.
# SIGTERM and Ctrl-C go to every process: the run saves, stops, and the same command continues it
# (a second Ctrl-C ends it at once).
# When one process ends badly, the others have GRACE seconds (30) to do so too; then they are killed.
# The status is that of the first bad end.
#
# --dry-run   print what would be started, and start nothing
#
# Needs: bash 4.4 or newer, and lfjax installed for $PYTHON (python). $PORT is where process 0
# listens; a free one is found unless it is set. On a machine with GPUs one process sees them all and
# needs no launcher; to share them among several, start those with CUDA_VISIBLE_DEVICES of their own.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

dry=
if [[ ${1:-} == --dry-run ]]; then
  dry=1
  shift
fi
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage
  exit 0
fi
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "launch/local.sh: expected the number of processes, found '${1:-}'" >&2
  usage >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python}
grace=${GRACE:-30}
port=${PORT:-}
if [[ -z $port && -z $dry ]]; then
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
fi

line() { # of process $1
  line=("$python" -m lfjax.main "${flags[@]}")
  if ((count > 1)); then
    line+=(--coordinator "127.0.0.1:${port:-PORT}" --processes "$count" --process "$1")
  fi
}

flags=("$@")
if [[ -n $dry ]]; then
  for ((i = 0; i < count; i++)); do
    line "$i"
    say "${line[@]}"
  done
  exit 0
fi

left=()
tell() { for pid in "${left[@]}"; do kill -"$1" -- "-$pid" 2>/dev/null || true; done; }
trap 'tell TERM' TERM
trap 'tell INT' INT
trap 'tell KILL' EXIT
set -m # a process group for each, so that Ctrl-C reaches them once, through the trap
for ((i = 0; i < count; i++)); do
  line "$i"
  "${line[@]}" </dev/null &
  left+=($!)
done
set +m

status=0 deadline=
while ((${#left[@]})); do
  running=()
  for pid in "${left[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      running+=("$pid")
      continue
    fi
    own=0
    wait "$pid" || own=$?
    if ((own && !status)); then
      status=$own
      deadline=$((SECONDS + grace))
    fi
  done
  left=("${running[@]}")
  if [[ -n $deadline ]] && ((SECONDS > deadline)); then
    tell KILL
  fi
  sleep 0.2 || true # a signal may cut it short
done
exit "$status"
