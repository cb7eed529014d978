#!/usr/bin/env bash
# Trains on all GPUs of this machine; once more after an interruption, to go on.
#
#     scripts/one_node.sh litv2_s                           # or litv2_m, litv2_b
#     scripts/one_node.sh litv2_s --config.data.data_dir=/data/tfds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=${1:-litv2_s}

# One process feeds all GPUs. Two cores are left for it; the others load images.
workers=$(($(nproc) > 3 ? $(nproc) - 2 : 1))

python train.py \
    --config "configs/imagenet.py:$model" \
    --workdir "runs/$model" \
    --config.data.num_workers="$workers" \
    "${@:2}"
