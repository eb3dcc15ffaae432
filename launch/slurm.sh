#!/usr/bin/env bash
#SBATCH --job-name=lfjax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
#
# A run as a Slurm job.
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gres=gpu:8 --exclusive launch/slurm.sh FLAGS…
#   sbatch --nodes=2 --ntasks-per-node=1 --gres=gpu:8 --exclusive launch/slurm.sh FLAGS…
#   launch/slurm.sh --dry-run FLAGS…
#
# Every task is a process of `python -m lfjax.main FLAGS…`; they find each other by what Slurm tells
# them. With one task a GPU each takes one, with one task a machine it takes all (never
# --gpus-per-task, which hides the others). 120 seconds before the time limit, and on scancel, all save
# and stop; the same sbatch goes on from there. A job that was preempted is put into the queue again.
#
# --dry-run   print what the job would run, and run nothing
#
# Needs: a submission from the folder of the configs, and a --workdir and data that all nodes see.
# $PYTHON (python) is the interpreter of an environment that all nodes see, with lfjax installed.
set -euo pipefail

usage() { sed -n '/^# A run/,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; }

dry=
case ${1:-} in
  --dry-run) dry=1 && shift ;;
  -h | --help | '') usage && exit ;;
esac
# One task that fails ends the others, which wait for it.
line=(srun --kill-on-bad-exit=1 "${PYTHON:-python}" -u -m lfjax.main "$@")
if [[ -n $dry ]]; then
  printf '%q ' "${line[@]}"
  echo
  exit
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "launch/slurm.sh: not in a Slurm job; submit it with sbatch (see --help)." >&2
  exit 2
fi
exec "${line[@]}"
