#!/usr/bin/env bash
# A run on Cloud TPU VMs, one slice or several, through queued resources.
#
#   ZONE=us-east5-b launch/tpu_pod.sh [--dry-run] run v6e-16 FLAGS…
#   ZONE=us-east5-b launch/tpu_pod.sh [--dry-run] logs | stop | delete
#
# `run` asks for the TPUs, waits for them, copies this checkout to every host, installs it, and starts
# `python -m lfjax.main FLAGS…` on all; it returns when that ends. Called again it does what is left.
# With SPOT=1, TPUs that vanish are asked for again, and the same command goes on from the last
# checkpoint; when it ends badly, ten looks (5 minutes) tell whether they vanish. `logs` follows
# process 0; `stop` has all save and stop; `delete` gives the TPUs back.
# Of several slices, --config.mesh.data=SLICES among the FLAGS has each hold the whole model.
#
#   NAME     of the resource (lfjax)        SLICES   slices of a multislice run (1)
#   ZONE     where to ask; needed           SPOT     1 for spot TPUs
#   PROJECT  gcloud's own unless set        POLL     seconds between looks (30)
#
# --dry-run   print the commands, and run none
#
# Needs: gcloud, signed in, with a quota for the TPUs; a --workdir and data on a file system that all
# hosts have mounted (Filestore, or a bucket through gcsfuse). v4, v5e, v5p and v6e are known, as v5e-16.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

dry=
[[ ${1:-} == --dry-run ]] && dry=1 && shift
what=${1:-}
(($#)) && shift
name=${NAME:-lfjax} slices=${SLICES:-1} poll=${POLL:-30}
where=(--zone "${ZONE:-}")
[[ -n ${PROJECT:-} ]] && where+=(--project "$PROJECT")
case $what in
  run | logs | stop | delete) [[ -n ${ZONE:-} ]] || fail "set ZONE, such as ZONE=us-east5-b." ;;
  -h | --help | '') usage && exit ;;
  *) fail "unknown '$what'; expected run, logs, stop or delete." ;;
esac

resource=(gcloud compute tpus queued-resources)
delete=("${resource[@]}" delete "$name" "${where[@]}" --force --quiet)
nodes=("$name")
if ((slices > 1)); then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi
everywhere() { # a shell command on all hosts of all slices, at once; its worst status
  local pids=() status=0
  for node in "${nodes[@]}"; do
    line=(gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$1")
    if [[ -n $dry ]]; then
      say "${line[@]}"
    else
      "${line[@]}" &
      pids+=($!)
    fi
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  return "$status"
}

case $what in
  logs)
    say gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${where[@]}" --worker=0 \
      --command='tail -n 100 -f lfjax.log'
    exit
    ;;
  stop)
    everywhere 'pkill -TERM -f lfjax[.]main'
    exit
    ;;
  delete)
    say "${delete[@]}"
    exit
    ;;
esac

type=${1:-}
(($#)) && shift
case $type in
  v4-*) image=tpu-ubuntu2204-base ;;
  v5e-*) image=v2-alpha-tpuv5-lite type=v5litepod-${type#v5e-} ;;
  v5p-*) image=v2-alpha-tpuv5 ;;
  v6e-*) image=v2-alpha-tpuv6e ;;
  *) fail "unknown TPU '$type'; expected v4-N, v5e-N, v5p-N or v6e-N." ;;
esac
create=("${resource[@]}" create "$name" "${where[@]}" --accelerator-type="$type" --runtime-version="$image")
if ((slices > 1)); then
  create+=(--node-count="$slices" --node-prefix="$name")
else
  create+=(--node-id="$name")
fi
[[ -n ${SPOT:-} ]] && create+=(--spot)
temp=/tmp/lfjax
if [[ -z $dry ]]; then
  temp=$(mktemp -d)
  trap 'rm -rf "$temp"' EXIT
fi
setup='mkdir -p lfjax && tar -xzf lfjax.tgz -C lfjax && cd lfjax && python3 -m pip install --quiet --user uv'
# The images' own Python is older than lfjax wants.
setup+=' && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/env && VIRTUAL_ENV=~/env ~/.local/bin/uv pip install --quiet -e .[tpu]'
# Python in place of the shell, which `stop` would end too.
main="cd lfjax && $locked && exec ~/env/bin/python -u -m lfjax.main $(printf '%q ' "$@")> ~/lfjax.log 2>&1"

state() { # of the TPUs; NONE where none were asked for, nothing where gcloud cannot say
  if "${resource[@]}" describe "$name" "${where[@]}" --format='value(state.state)' 2>"$temp/errors"; then
    return
  elif grep -q NOT_FOUND "$temp/errors"; then
    echo NONE
  else
    cat "$temp/errors" >&2
  fi
}
tries=5 # a mistake shows in the first commands; what fails later is likelier to pass
wait_for_tpus() {
  while true; do
    local ok=1
    case $(state) in
      ACTIVE) break ;;
      NONE) "${create[@]}" || ok= ;;
      FAILED | SUSPENDED | SUSPENDING) "${delete[@]}" || ok= ;;
      '') ok= ;;
    esac
    if [[ -n $ok ]]; then
      tries=20
    elif ! ((--tries)); then
      echo "launch/tpu_pod.sh: gcloud failed again and again; the same command goes on from here." >&2
      exit 1
    fi
    sleep "$poll"
  done
  tries=20
}
vanished() { # whether the TPUs were taken away, which may show minutes after what ran on them ended
  local looks=10
  ((status == 2)) && looks=1 # a mistake, or one that waited long for the others
  while true; do
    case $(state) in
      ACTIVE | '') ((--looks)) || return 1 ;;
      NONE | DELETING) return 1 ;; # given back, by `delete`
      *) return 0 ;;
    esac
    sleep "$poll"
  done
}

[[ -z $dry ]] || say "${create[@]}"
# Packed once: TPUs that are asked for again get the same code.
say tar -czf "$temp/lfjax.tgz" "${stays[@]}" .
while true; do
  [[ -n $dry ]] || wait_for_tpus
  status=0 began=
  for node in "${nodes[@]}"; do
    say gcloud compute tpus tpu-vm scp "$temp/lfjax.tgz" "$node:lfjax.tgz" "${where[@]}" --worker=all || status=$?
  done
  if ((status == 0)); then everywhere "$setup" || status=$?; fi
  if ((status == 0)); then
    began=1
    everywhere "$main" || status=$?
  fi
  if [[ -n $dry && -n ${SPOT:-} ]]; then
    echo "# where they vanish, and then all of the above but tar again:"
    say "${delete[@]}"
  fi
  if [[ -n $dry ]] || ((status == 0)); then exit; fi
  echo "launch/tpu_pod.sh: ended with status $status" >&2
  [[ -n ${SPOT:-} ]] && vanished && continue
  # What went wrong is in the log, if it came to that.
  [[ -z $began ]] || gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${where[@]}" --worker=0 --command='tail -n 20 lfjax.log' >&2 || true
  exit "$status"
done
