#!/usr/bin/env bash
#SBATCH --job-name=litv2
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Trains under SLURM with one process for each GPU, where a cluster wants it so; slurm.sh
# has one for each machine. The numbers are the same, and so is how to go on.
#
#     sbatch scripts/slurm_gpu_tasks.sh litv2_s
#
# Ask for GPUs by machine, as above: each process sees all of them, and JAX takes the one
# of its number there. With --gpus-per-task or --gpu-bind it would look for the others in
# vain.
set -euo pipefail
# SLURM runs a copy of this file, but starts it where `sbatch` was called.
cd "${SLURM_SUBMIT_DIR:?start this script with sbatch}"

model=${1:-litv2_s}

# Every process has workers that load images, on its share of the cores.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" \
    python train.py \
    --config "configs/imagenet.py:$model" \
    --workdir "runs/$model" \
    --config.data.num_workers="$((${SLURM_CPUS_PER_TASK:-8} - 1))" \
    "${@:2}"
