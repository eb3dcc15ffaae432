#!/usr/bin/env bash
# A run on GKE, TPUs or GPU hosts, through xpk.
#
#   CLUSTER=c IMAGE=REGISTRY/lfjax launch/gke.sh [--dry-run] run v6e-16 FLAGS…
#   CLUSTER=c launch/gke.sh [--dry-run] logs | delete
#
# `run` builds launch/Dockerfile, pushes it, and creates a workload of as many restarts as RESTARTS
# (50): a node that goes away costs the steps since the last checkpoint. Of several slices,
# --config.mesh.data=SLICES among the FLAGS has each hold the whole model.
#
#   NAME     of the workload (lfjax)        SLICES   TPU slices, or GPU hosts (1)
#   CLUSTER  an xpk cluster; needed         ZONE, PROJECT   xpk's own unless set
#   IMAGE    where to push; needed by run
#
# --dry-run   print the commands, and run none
#
# Needs: docker, kubectl and xpk, signed in; a --workdir and data on storage that the cluster mounts into
# every workload (xpk storage). TPUs are named as v6e-16 or v5e-16, GPU hosts as h200-141gb-8.
set -euo pipefail

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

dry=
[[ ${1:-} == --dry-run ]] && dry=1 && shift
what=${1:-}
(($#)) && shift
name=${NAME:-lfjax}
case $what in
  run | logs | delete) [[ -n ${CLUSTER:-} ]] || fail "set CLUSTER to an xpk cluster." ;;
  -h | --help | '') usage && exit ;;
  *) fail "unknown '$what'; expected run, logs or delete." ;;
esac
where=(--cluster "$CLUSTER")
[[ -n ${ZONE:-} ]] && where+=(--zone "$ZONE")
[[ -n ${PROJECT:-} ]] && where+=(--project "$PROJECT")

case $what in
  logs)
    say kubectl logs --follow --selector="jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
    exit
    ;;
  delete)
    say xpk workload delete --workload "$name" "${where[@]}"
    exit
    ;;
esac

[[ -n ${IMAGE:-} ]] || fail "set IMAGE to where the image is pushed, such as REGISTRY/lfjax."
type=${1:-}
(($#)) && shift
[[ $type == v5e-* ]] && type=v5litepod-${type#v5e-} # xpk's name for them
case $type in
  v[4-9]*-*) extra=tpu device=(--tpu-type="$type" --num-slices="${SLICES:-1}") ;;
  *gb-*) extra=cuda12 device=(--device-type="$type" --num-nodes="${SLICES:-1}") ;;
  *) fail "unknown accelerator '$type'; expected one such as v6e-16 or h200-141gb-8." ;;
esac
command="exec python -u -m lfjax.main $(printf '%q ' "$@")"
if [[ $extra == cuda12 && ${SLICES:-1} -gt 1 ]]; then
  # xpk tells a GPU host its rank; TPUs find each other by themselves.
  command+="--coordinator \$JAX_COORDINATOR_ADDRESS:\$JAX_COORDINATOR_PORT --processes \$NNODES --process \$NODE_RANK"
fi
say docker build -f launch/Dockerfile --build-arg "EXTRA=$extra" -t "$IMAGE" .
say docker push "$IMAGE"
say xpk workload create --workload "$name" "${where[@]}" "${device[@]}" --docker-image "$IMAGE" \
  --max-restarts "${RESTARTS:-50}" --command "$command"
