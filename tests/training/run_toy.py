"""Trains the toy, to be killed by tests: python -m tests.training.run_toy WORKDIR

A second argument is the size in bytes at which files end, as on a disk that is full.
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from litv2_jax.training.loop import fit
from tests.training.toy import Toy, toy_run

NUM_STEPS = 40

# Checkpoints of 4 MB, so that a kill may come while one is being written.
HIDDEN = 50_000


class SlowToy(Toy):
    def train_batches(self, start_step):
        for batch in iter(super().train_batches(start_step)):
            time.sleep(0.02)
            yield batch


def run_of_toy():
    return toy_run(
        epochs=NUM_STEPS / 4, eval_every_epochs=5.0, checkpoint_every_steps=3
    )


def limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


if __name__ == "__main__":
    if sys.argv[2:]:
        limit_files(int(sys.argv[2]))
    fit(SlowToy(hidden=HIDDEN), run_of_toy(), Path(sys.argv[1]))
