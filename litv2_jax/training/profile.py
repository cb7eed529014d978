"""Traces some steps of a run for TensorBoard and Perfetto."""

import dataclasses
from pathlib import Path

import jax

from litv2_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True)
class StepRange:
    """The steps to trace, the first and the last one included; 0 and 0 for none."""

    first: int = 0
    last: int = 0

    @classmethod
    def parse(cls, text: str) -> "StepRange":
        """Reads `START:STOP`.

        Raises:
            ConfigError: If the text has another format, or STOP is before START.
        """
        if not text:
            return cls()
        first, separator, last = text.partition(":")
        if separator and first.isdecimal() and last.isdecimal():
            steps = cls(int(first), int(last))
            if 1 <= steps.first <= steps.last:
                return steps
        raise ConfigError(
            f"--profile is {text!r}; it must be START:STOP, the first and the last of "
            "the steps to trace, such as 20:25."
        )

    def check(self, start_step: int, num_steps: int) -> None:
        """Raises ConfigError unless the run will take all of these steps.

        Args:
            start_step: Steps that are done already.
            num_steps: Steps of the whole run.
        """
        if self.first and not start_step < self.first <= self.last <= num_steps:
            raise ConfigError(
                f"--profile is {self.first}:{self.last}, but this start takes steps "
                f"{start_step + 1} to {num_steps}: name some of these."
            )


class Profiler:
    """Writes the trace of a range of steps, only on the first process."""

    def __init__(self, steps: StepRange, directory: Path):
        """Prepares to write.

        Args:
            steps: The steps to trace.
            directory: For the traces, which TensorBoard finds in it.
        """
        self._steps = steps if jax.process_index() == 0 else StepRange()
        self._directory = directory
        self._is_tracing = False

    def before(self, step: int) -> None:
        """Begins the trace if the step is the first one."""
        if step == self._steps.first:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._is_tracing = True

    def after(self, step: int, results: object) -> None:
        """Ends the trace after the last step, when the devices have done it.

        Args:
            step: The step.
            results: Arrays of the step, to wait for.
        """
        if self._is_tracing and step == self._steps.last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the trace if the run stopped before its last step."""
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()
