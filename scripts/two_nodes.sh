#!/usr/bin/env bash
# Trains on two machines that no scheduler manages. Start it on both, within five
# minutes of each other, with the name of the first machine and the number of this one:
#
#     scripts/two_nodes.sh node-a 0          # on node-a
#     scripts/two_nodes.sh node-a 1          # on the other one
#
# Both need the data and this folder, on a file system that they share, and the other
# one must reach port 9000 of the first. For more machines change --num-processes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

first=${1:?name or address of the first machine}
number=${2:?number of this machine: 0 or 1}
model=${3:-litv2_s}

python train.py \
    --config "configs/imagenet.py:$model" \
    --workdir "runs/$model" \
    --coordinator "$first:9000" \
    --num-processes 2 \
    --process-id "$number" \
    "${@:4}"
