#!/usr/bin/env bash
# Run a command on this host until it is done: again where it was stopped or killed, or lost another host.
#
#   experiments/again.sh snnlth imp --distributed --workdir DIR ...
#
# Each host of a search runs this. The command runs again after status 69 (another host is gone), 75 (stopped)
# and an end by a signal, after a pause in which the other hosts notice too: AGAIN_SECONDS, default 60. Any
# other status ends it, and so do ten attempts in a row that took less than ten minutes each (AGAIN_ATTEMPTS),
# and SIGTERM or Ctrl-C, which the command gets.

set -uo pipefail
if [ $# = 0 ] || [ "$1" = --help ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit $(($# ? 0 : 2))
fi
pause=${AGAIN_SECONDS:-60}
stopped='' child='' short=0
trap 'stopped=yes; [ ! "$child" ] || kill -TERM "$child" 2> /dev/null' TERM INT
while :; do
  begun=$SECONDS
  "$@" &
  child=$!
  wait "$child"; status=$?
  while kill -0 "$child" 2> /dev/null; do wait "$child"; status=$?; done  # the trap ends a wait early
  child=''
  [ "$stopped" ] && exit "$status"
  [ "$status" = 69 ] || [ "$status" = 75 ] || [ "$status" -gt 128 ] || exit "$status"
  short=$((SECONDS - begun < 600 ? short + 1 : 0))
  [ "$short" -lt "${AGAIN_ATTEMPTS:-10}" ] || exit "$status"
  echo "again: ended with status $status, starts again in $pause s" >&2
  sleep "$pause" &
  wait $!
  [ "$stopped" ] && exit "$status"
done
