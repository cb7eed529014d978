#!/usr/bin/env bash
#SBATCH --job-name=litv2
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains on several machines under SLURM: one process on each, which has all its GPUs.
# Submit it again, or let SLURM requeue it, to go on where it was interrupted.
#
#     sbatch scripts/slurm.sh litv2_s
#     sbatch --nodes=4 scripts/slurm.sh litv2_b --config.data.data_dir=/data/tfds
#
# All machines need the data and this folder, on a file system that they share.
set -euo pipefail
# SLURM runs a copy of this file, but starts it where `sbatch` was called.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

model=${1:-litv2_s}

# srun tells every process where the others are; it does not ask for cores by itself.
srun --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-64}" \
    python train.py \
    --config "configs/imagenet.py:$model" \
    --workdir "runs/$model" \
    --config.data.num_workers="$((${SLURM_CPUS_PER_TASK:-64} - 2))" \
    "${@:2}"
