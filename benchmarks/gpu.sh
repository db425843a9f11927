#!/usr/bin/env bash
# Everything that is measured on a GPU, in pieces of under ten minutes each; results in benchmarks/results.
#
#     benchmarks/gpu.sh PIECE... [--peer PYTHON]     pieces: machine step timesteps batches epoch prune search, or all
#
# PYTHON is an interpreter with torch and spikingjelly, to be timed beside ours. $SNNLTH_PYTHON is ours, by
# default python3. A piece that takes longer is ended, and the next begins.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${SNNLTH_PYTHON:-python3}
results=benchmarks/results
pieces=() peer=()
while [ $# -gt 0 ]; do
    case $1 in
        --peer) peer=(--peer "${2:?--peer needs the path of an interpreter}"); shift 2 ;;
        all) pieces+=(machine step timesteps batches epoch prune search); shift ;;
        machine | step | timesteps | batches | epoch | prune | search) pieces+=("$1"); shift ;;
        *) echo "gpu.sh: error: $1: allowed: machine step timesteps batches epoch prune search all, --peer PYTHON" >&2; exit 2 ;;
    esac
done
[ ${#pieces[@]} -gt 0 ] || { echo "gpu.sh: error: no piece: machine step timesteps batches epoch prune search, or all" >&2; exit 2; }
mkdir -p "$results"

piece() { # NAME SCRIPT FLAG...
    echo "== $1: $2 ${*:3}"
    timeout 580 "$python" "benchmarks/$2" "${@:3}" 2>&1 | tee "$results/gpu_$1.txt"
    local status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || { echo "gpu.sh: $1 ended with status $status" >&2; failed=1; }
}

failed=0
bf16=(--dtype bfloat16)
for name in "${pieces[@]}"; do
    case $name in
        machine) { nvidia-smi; "$python" -m snnlth_jax.cli doctor; } 2>&1 | tee "$results/gpu_machine.txt" ;;
        step) for arch in vgg16 resnet19; do
            piece "step_$arch" train_step.py "${peer[@]}" --arch "$arch" --batch 128,512 "${bf16[@]}" --name "gpu_step_$arch"
        done ;;
        timesteps) piece timesteps train_step.py "${peer[@]}" --arch vgg16 --timesteps 1,2,3,4,6,8 --batch 128 "${bf16[@]}" --name gpu_timesteps ;;
        batches) piece batches train_step.py "${peer[@]}" --arch vgg16 --batch 32,64,256,1024 "${bf16[@]}" --name gpu_batches ;;
        epoch) for batch in 128 512; do
            piece "epoch_$batch" epoch.py --batch "$batch" "${bf16[@]}" --examples 49920
        done ;;
        prune) piece prune prune.py ;;
        search) piece search search.py ;;
    esac
done
exit "$failed"
