# shellcheck shell=bash
# What the launch scripts share; sourced by them.

usage() { # the comment at the head of the script
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
}

fail() {
  echo "launch/${0##*/}: $1" >&2
  exit 2
}

say() { # a command that is run, or in a dry run shown
  if [[ -n ${dry:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
