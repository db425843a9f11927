#!/usr/bin/env bash
# Everything that is measured on a GPU, in pieces of under ten minutes each; results in benchmarks/results.
#
#     benchmarks/gpu.sh PIECE... [--peer PYTHON]     or all
#
# Pieces: machine step_vgg16 step_resnet19 compiled_vgg16 compiled_resnet19 few_timesteps many_timesteps
# small_batches large_batches epoch_128 epoch_512 profile prune search. PYTHON is an interpreter with torch and
# spikingjelly, to be timed beside ours. Its modes with torch.compile are pieces of their own, compiled_*, since
# they can take longer than a piece may. $SNNLTH_PYTHON is ours, by default python3. A piece that takes longer is
# ended, and the next begins. Without a GPU nothing is measured, except with JAX_PLATFORMS=cpu, to try the script.
set -uo pipefail
python=${SNNLTH_PYTHON:-python3}
all=(machine step_vgg16 step_resnet19 few_timesteps many_timesteps small_batches large_batches epoch_128
    epoch_512 profile prune search compiled_vgg16 compiled_resnet19)
pieces=() peer=()
while [ $# -gt 0 ]; do
    case $1 in
        --peer)
            [ -n "${2-}" ] || { echo "gpu.sh: error: --peer: allowed: the path of an interpreter" >&2; exit 2; }
            peer=(--peer "$2"); shift 2
            case ${peer[1]} in /*) ;; */*) peer[1]=$PWD/${peer[1]} ;; esac ;;
        all) pieces+=("${all[@]}"); shift ;;
        *)
            [[ " ${all[*]} " == *" $1 "* ]] || { echo "gpu.sh: error: $1: allowed: ${all[*]}, all, --peer PYTHON" >&2; exit 2; }
            pieces+=("$1"); shift ;;
    esac
done
[ ${#pieces[@]} -gt 0 ] || { echo "gpu.sh: error: no piece; allowed: ${all[*]}, or all" >&2; exit 2; }
cd "$(dirname "$0")/.." || exit
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL-2}  # XLA's notes on its timers would land in the tables
[ "${JAX_PLATFORMS-}" = cpu ] || "$python" -c 'import jax, sys; sys.exit(jax.default_backend() == "cpu")' 2>/dev/null ||
    { echo "gpu.sh: error: $python: JAX finds no GPU" >&2; exit 1; }
results=benchmarks/results
mkdir -p "$results"

failed=0
run() { # NAME COMMAND...
    echo "== $1: ${*:2}"
    timeout -k 10 570 "${@:2}" 2>&1 | tee "$results/gpu_$1.txt"
    local status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || { echo "gpu.sh: $1 ended with status $status" >&2; failed=1; }
}
steps() { # NAME FLAG...
    run "$1" "$python" benchmarks/train_step.py "${peer[@]}" --modes authors,multi-step --dtype bfloat16 \
        --name "gpu_$1" "${@:2}"
}
# 388 batches of 128, 97 of 512: nearly CIFAR-10, and no smaller batch at the end
epoch() { run "epoch_$1" "$python" benchmarks/epoch.py --batch "$1" --dtype bfloat16 --examples 49664; }

for name in "${pieces[@]}"; do
    case $name in
        machine) run machine bash -c "nvidia-smi; '$python' -m snnlth_jax.cli doctor" ;;
        step_*) steps "$name" --arch "${name#step_}" --batch 128,512 ;;
        compiled_*)
            steps "$name" --arch "${name#compiled_}" --batch 128 --modes 'multi-step compiled,multi-step graphs' ;;
        few_timesteps) steps "$name" --arch vgg16 --timesteps 1,2,3 --batch 128 ;;
        many_timesteps) steps "$name" --arch vgg16 --timesteps 4,6,8 --batch 128 ;;
        small_batches) steps "$name" --arch vgg16 --batch 32,64,256 ;;
        large_batches) steps "$name" --arch vgg16 --batch 1024 --in-turn ;;
        epoch_*) epoch "${name#epoch_}" ;;
        profile) run "$name" "$python" benchmarks/step_profile.py --batch 128 --dtype bfloat16 ;;
        prune | search) run "$name" "$python" "benchmarks/$name.py" ;;
    esac
done
exit "$failed"
