# shellcheck shell=bash
# What the launch scripts share; sourced by them.

usage() { # the comment at the head of the script
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
}

fail() {
  echo "launch/${0##*/}: $1" >&2
  exit 2
}

# What of a checkout no other machine needs, as rsync and tar are told.
# shellcheck disable=SC2034
stays=(--exclude=.git --exclude=.venv --exclude=runs --exclude=__pycache__ --exclude=.{jax,pytest,ruff}_cache)

# A lock of the host, held by what is started after it, keeps a second start out while the first goes
# on; taken before the log is opened, which the second would empty.
# shellcheck disable=SC2034
locked='exec 9> ~/lfjax.lock && { flock --nonblock 9 || { echo "a run goes on there already; lfjax.log is its log" >&2; exit 2; }; }'

say() { # a command that is run, or in a dry run shown
  if [[ -n ${dry:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
