"""Trains a model; resumes from the latest checkpoint, if any.

python train.py --config configs/demo.py:digits --workdir runs/digits

The code is in `litv2_jax/train.py`, which the package also installs as `litv2-train`.
"""

from litv2_jax.train import run_command

if __name__ == "__main__":
    run_command()
