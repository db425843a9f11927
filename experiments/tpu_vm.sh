#!/usr/bin/env bash
# Run a search on a Cloud TPU VM, through preemptions, until it is done; then fetch its results.
#
#   experiments/tpu_vm.sh --name NAME --zone ZONE --bucket gs://BUCKET/DIR [FLAG...] -- snnlth imp ...
#   experiments/tpu_vm.sh --name NAME ... -- experiments/table1_early_time.py --scale fast
#
#   --name NAME       of the VM and of the run: lower-case letters, digits and hyphens
#   --zone ZONE       one that has such TPUs, us-west4-a for instance
#   --bucket gs://... keeps what outlives the VM: runs/NAME (--workdir), data (--data-dir), compiled programs
#   --type TYPE       of TPU, default v5litepod-8; a run uses all hosts of larger ones
#   --version V       runtime of the VM, by default the one for the type
#   --project P       by default that of gcloud
#   --spot            cheaper, and may be taken away at any time
#   --delete          delete the VM when the results are fetched
#   --dry-run         print the commands of a run that nothing disturbs, and run none
#
# The command is any search of snnlth, or a script of experiments/; --workdir, --data-dir and --distributed are
# added to it. HEAD of this checkout is what runs. The VM is created if there is none of that name. Ctrl-C ends
# the watching and not the run: the same line takes it up again. Exit status: that of the run, 1 if the cloud
# fails, 2 for bad input. Results come to runs/NAME, without the checkpoints.
#
# Beforehand: gcloud, logged in; for a TPU of several hosts, ssh-add ~/.ssh/google_compute_engine; a bucket in
# the zone's region that the VM's service account may write; and there each dataset but digits, prepared where
# TensorFlow is installed (its files can be read from a bucket, but not be written there):
#   snnlth data prepare cifar10 --data-dir tfds
#   gcloud storage cp --recursive tfds/cifar10 gs://BUCKET/DIR/data/

set -euo pipefail
exec 3>&1  # where people look, also from within $(...)
say() { echo "# $*" >&3; }
fail() { echo "tpu_vm: error: $2" >&2; exit "$1"; }
quoted() { printf '%q' "$1"; shift; [ $# = 0 ] || printf ' %q' "$@"; }
poll=${SNNLTH_POLL_SECONDS:-60}

name='' zone='' bucket='' type=v5litepod-8 version='' project='' spot='' delete='' dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit ;;
    --spot | --delete) printf -v "${1#--}" yes; shift ;;
    --dry-run) dry_run=yes; shift ;;
    --name | --zone | --bucket | --type | --version | --project)
      [ $# -ge 2 ] || fail 2 "$1: needs a value"
      printf -v "${1#--}" %s "$2"; shift 2 ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    *) fail 2 "$1: unknown; allowed: the flags of --help, then -- and the command" ;;
  esac
done
for flag in name zone bucket; do
  [ "${!flag}" ] || fail 2 "--$flag: missing; see --help"
done
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
  fail 2 "--name $name: allowed: lower-case letters, digits and hyphens, a letter first"
[[ $bucket =~ ^gs://[a-z0-9][^[:space:]]*$ ]] || fail 2 "--bucket $bucket: allowed: gs://BUCKET or gs://BUCKET/DIR, the bucket in lower case"
bucket=${bucket%/}
[ "$version" ] || case $type in  # cloud.google.com/tpu/docs/runtimes
  v[234]-*) version=tpu-ubuntu2204-base ;;
  v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  v5p-*) version=v2-alpha-tpuv5 ;;
  v6e-*) version=v2-alpha-tpuv6e ;;
  *) fail 2 "--type $type: allowed: v2-N, v3-N, v4-N, v5litepod-N, v5p-N, v6e-N; others with --version" ;;
esac
if [[ ${1-} =~ ^experiments/[a-z0-9_]+\.py$ ]]; then
  [ -f "$(dirname "$0")/${1#experiments/}" ] || fail 2 "$1: there is no such script"
  set -- .venv/bin/python "$@"
elif [[ "${1-} ${2-}" =~ ^snnlth\ (imp|eb|one-shot|dynamic|transfer|probe-timesteps|stability|train)$ ]]; then
  set -- .venv/bin/snnlth "${@:2}"
else
  fail 2 "no command; allowed: -- snnlth and a search with its flags, or a script of experiments/"
fi
for word; do
  [[ ! $word =~ ^--(workdir|data[-_]dir|(no-)?distributed)(=|$) ]] ||
    fail 2 "$word in the command: allowed: none, this script sets it"
done
[ "$dry_run" ] || command -v gcloud > /dev/null ||
  fail 2 "gcloud is not installed; see cloud.google.com/sdk/docs/install"
cd "$(dirname "$0")/.."

# --- Every command goes through run, so that a dry run takes the same way. $answer is what one whose output
# decides something says when nothing disturbs the run.

answer=''
run() {
  if [ ! "$dry_run" ]; then
    "$@" < /dev/null
  else
    { quoted "$@"; echo; } >&3
    [ ! "$answer" ] || echo "$answer"
  fi
}
tpu() { run gcloud compute tpus tpu-vm "$@" --zone="$zone" ${project:+--project="$project"} --quiet; }
source=runs/$name/source.tar.gz
alive=-oServerAliveInterval=30  # a VM that is taken away closes no connections: ssh would wait for ever
copy() { tpu scp "$source" "$name:source.tar.gz" --worker=all --scp-flag="$alive"; }
on_workers() {
  [ ! "$dry_run" ] || say "on each worker: $1"
  tpu ssh "$name" --worker=all --ssh-flag="$alive" --command="$1"
}
pause() { [ ! "${1-}" ] || say "$1; looking again in $poll s"; run sleep "$poll"; }
there="$name --zone=$zone${project:+ --project=$project}"
vm_stays() { say "the VM is still there, and paid for: gcloud compute tpus tpu-vm delete $there"; }
give_up() { vm_stays; fail "$@"; }
attempt() {
  attempts=$((attempts + 1))
  [ $attempts -le 5 ] || give_up 1 "the run could not be reached or started five times in a row, see above"
}

# --- What the workers are told, each in its own ~/snnlth: command is the one under way or run last, status
# its exit status once it has ended; lock is held as long as a process of it lives.

command=$(quoted env JAX_COMPILATION_CACHE_DIR="$bucket/jax_cache" "$@" \
  --workdir "$bucket/runs/$name" --data-dir "$bucket/data" --distributed)
# uv brings the Python that the image lacks
install="mkdir -p snnlth && tar -xzf source.tar.gz -C snnlth && cd snnlth && \
curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv --quiet --clear --python 3.11 && \
~/.local/bin/uv pip install --quiet -r requirements-tpu.txt"
# gcloud repeats what a broken connection cut off: what is started twice must start once
start="cd snnlth && exec 9> lock && { flock --nonblock 9 || exit 0; } && rm -f status && \
printf '%s\n' $(quoted "$command") > command && \
{ nohup bash -c 'bash command; echo \$? > status' >> log 2>&1 < /dev/null & }"
report="mkdir -p snnlth && cd snnlth && \
if [ ! -s status ] && ! flock --nonblock lock true; then cat command; \
elif [ -s status ]; then cat status; else echo none; fi"  # asked again: it may have ended meanwhile

run mkdir -p "${source%/*}"
changed=$(run git status --porcelain --untracked-files=no)
[ ! "$changed" ] || say "what is not committed stays here"
run git archive --format=tar.gz --output="$source" HEAD

seen=''     # the VM has been there: what fails from now on has worked before, and is tried again
started=''  # the run was, on this VM, by us or found under way: an exit status from before says nothing
failed=''   # the exit status at the last look
losses=0    # of a worker
attempts=0  # to reach or start the run on this VM since it was seen under way
say "to see its output: gcloud compute tpus tpu-vm ssh $there --command='tail -f snnlth/log'"
say "from here to the end of the run, every $poll s: is the VM there, and what does the run say?"
while :; do
  state=$(answer=${seen:+READY} tpu list --filter="name~/$name\$" --format='value(state)') || {
    [ "$seen" ] || fail 1 "the VMs in $zone cannot be listed, see above"
    pause "the VMs cannot be listed"; continue
  }
  case $state in
    READY) seen=yes ;;
    '')
      say "no VM: it is created"
      if tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}; then
        seen=yes started='' attempts=0
      else  # after a preemption there is often none to be had for a while
        [ "$seen" ] || fail 1 "the VM cannot be created, see above"
        pause "the VM cannot be created"
      fi
      continue ;;
    PREEMPTED | TERMINATED)  # it does not come back
      say "the VM is $state: it is deleted and created anew"
      tpu delete "$name" || pause "the VM cannot be deleted"
      continue ;;
    *) pause "the VM is $state"; continue ;;
  esac

  reports=$(answer=$([ "$started" ] && echo 0 || echo none) on_workers "$report") || {
    attempt
    pause "the workers cannot be reached"; continue
  }
  running='' again='' lost='' status=0
  while IFS= read -r line; do
    case $line in
      "$command" | '') running=yes ;;
      0) ;;
      75 | none) again=yes ;;  # stopped with a checkpoint; never started, or gone when the VM restarted
      69) lost=yes ;;  # another worker is gone, killed by a signal unless it says otherwise
      *[!0-9]*) fail 2 "$name is at another command: $line; allowed: that one, or another --name" ;;
      *) [ "$status" != 0 ] && [ "$status" -lt "$line" ] || status=$line ;;  # the lowest: snnlth's own
    esac
  done <<< "$reports"
  if [ "$lost" ] && [ ! "$running" ] && { [ "$status" = 0 ] || [ "$status" -gt 128 ]; }; then
    losses=$((losses + 1))
    [ $losses -le 20 ] || give_up 69 "the run lost a worker $losses times"
    again=yes
  fi

  if [ "$running" ]; then  # on one worker at least: where others have failed, JAX ends it soon
    started=yes failed='' attempts=0
    pause
  elif [ "$again" ] || [ ! "$started" ]; then
    say "copy, install and start on all workers"
    attempt
    if copy && on_workers "$install" && on_workers "$start"; then started=yes; else say "that failed"; fi
    failed=''
    pause
  elif [ "$status" = 0 ]; then
    break
  elif [ "$status" = "$failed" ]; then
    on_workers 'tail -n 20 snnlth/log' >&2 || true
    give_up "$status" "the run ended with status $status, its last lines are above"
  else  # a VM that is being taken away makes a run fail somehow: believed if it is still there next time
    failed=$status
    pause "the run ended with status $status"
  fi
done
say "the run is done"
run gcloud storage rsync "$bucket/runs/$name" "runs/$name" --recursive --exclude='.*checkpoints/.*' ||
  give_up 1 "the results cannot be fetched, see above; the same line does it again"
say "results: $PWD/runs/$name"
if [ "$delete" ]; then tpu delete "$name"; else vm_stays; fi
