"""Trains the toy, to be disturbed by tests: python -m tests.training.run_toy WORKDIR"""

import argparse
import os
import resource
import signal
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from litv2_jax.checkpoints import CheckpointError
from litv2_jax.settings import ConfigError
from litv2_jax.training import log
from litv2_jax.training.devices import connect
from litv2_jax.training.failures import failing_together, watch_failures
from litv2_jax.training.loop import StoppedError, fit
from tests.training.toy import ShiftAndLabel, Toy, draw_no_curves, toy_run

NUM_STEPS = 40

# Checkpoints of 4 MB, so that a kill may come while one is being written.
HIDDEN = 50_000


class SlowlyLoaded(ShiftAndLabel):
    """Keeps the run waiting for its data, once each worker has loaded some."""

    def __init__(self):
        self._num_loaded = 0

    def random_map(self, element, rng):
        self._num_loaded += 1
        time.sleep(1.0 if self._num_loaded > 48 else 0.0)
        return super().random_map(element, rng)


class DisturbedToy(Toy):
    """Takes 20 ms for each step, and may fail to load one."""

    def __init__(self, options: argparse.Namespace):
        slow = SlowlyLoaded() if options.slow == "data" else ShiftAndLabel()
        super().__init__(
            hidden=HIDDEN,
            num_workers=options.workers,
            processes=(options.process, options.processes),
            train_transform=slow,
        )
        self._options = options

    def train_batches(self, start_step):
        batches = iter(super().train_batches(start_step))
        try:
            for step, batch in enumerate(batches, start_step + 1):
                if self._options.fail == "loading" and step == 8:
                    raise ConfigError("The disk with the data is gone.")
                if self._options.slow == "step":
                    time.sleep(0.02)
                yield batch
        finally:
            batches.close()


def run_of_toy():
    return toy_run(
        epochs=NUM_STEPS / 4, eval_every_epochs=5.0, checkpoint_every_steps=3
    )


def limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--slow", choices=("step", "data"), default="step")
    parser.add_argument("--largest-file", type=int, help="bytes, as on a full disk")
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--fail", choices=("loading",))
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    log.draw_curves = draw_no_curves
    if options.largest_file:
        limit_files(options.largest_file)
    connect(options.coordinator, options.processes, options.process)
    watch_failures()
    try:
        with failing_together(StoppedError):
            fit(DisturbedToy(options), run_of_toy(), options.workdir)
    except StoppedError as error:
        print(error, file=sys.stderr)
        sys.exit(143)
    except (ConfigError, CheckpointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
