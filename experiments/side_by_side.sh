#!/usr/bin/env bash
# Run the cells of an experiment in several processes on one device, which a single small network leaves idle.
#
#   experiments/side_by_side.sh 9 python experiments/evidence.py --scale fmnist --data-dir DIR --workdir runs/fmnist
#
# The i-th of n processes gets --cells i/n; what it prints goes to side_by_side_i.txt in the current directory. On
# a GPU they share its memory. SIGTERM or Ctrl-C stops all with a checkpoint, and the same command resumes. At the end
# the command runs once more with --show, for the tables of all cells. The status is 75 if a process was
# stopped, otherwise that of the first that failed.

set -uo pipefail
if [ "${1-}" = --help ] || [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]?$ ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit $(($# == 1 ? 0 : 2))
fi
number=$1; shift
export XLA_PYTHON_CLIENT_PREALLOCATE=${XLA_PYTHON_CLIENT_PREALLOCATE-false}
children=()
trap 'kill -TERM "${children[@]}" 2> /dev/null' TERM INT
for ((i = 1; i <= number; i++)); do
  "$@" --cells "$i/$number" > "side_by_side_$i.txt" 2>&1 &
  children+=($!)
done
result=0
for i in "${!children[@]}"; do
  wait "${children[i]}"; status=$?
  while kill -0 "${children[i]}" 2> /dev/null; do wait "${children[i]}"; status=$?; done  # the trap ends a wait early
  [ "$status" = 0 ] || { echo "side_by_side: process $((i + 1)) of $number ended with status $status: $(tail -n 1 "side_by_side_$((i + 1)).txt")" >&2; }
  [ "$status" = 0 ] || [ "$result" = 75 ] || { [ "$result" != 0 ] && [ "$status" != 75 ]; } || result=$status
done
[ "$result" = 75 ] || "$@" --show
exit "$result"
