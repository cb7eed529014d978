"""Detects runs whose numbers are no longer finite, and advises what to do."""

import math
from collections.abc import Mapping, Sequence


class TrainingError(RuntimeError):
    """A run that cannot continue; its message says why."""


class SkippedSteps:
    """Counts the steps in a row that were skipped.

    Attributes:
        count: Their number so far; those of earlier starts are included until the run
            gets further than these.
        since: The last step that was applied before them.
    """

    def __init__(self, max_skipped: int, *, start_step: int, earlier: tuple[int, int]):
        """Continues the count of an earlier start.

        Args:
            max_skipped: Largest number allowed.
            start_step: Step of the checkpoint that the run resumes from, or 0.
            earlier: Count and `since` when the earlier start ended.
        """
        self.count, self.since = earlier
        self._max_skipped = max_skipped
        self._last_applied = start_step
        self._is_skipping = False

    @property
    def is_skipping(self) -> bool:
        """Whether the last step was skipped."""
        return self._is_skipping

    def add_applied(self, step: int) -> None:
        """Notes a step that was applied."""
        self._last_applied = step
        self._is_skipping = False
        if step > self.since:
            self.count, self.since = 0, step

    def add_skipped(self) -> None:
        """Notes a step that was skipped."""
        self.count += 1
        self._is_skipping = True

    def check(
        self, step: int, values: Mapping[str, float], checkpoints: Sequence[int]
    ) -> None:
        """Stops the run if too many steps were skipped.

        Args:
            step: Its number.
            values: Its loss, norm of the gradient and learning rate.
            checkpoints: Steps that have a checkpoint.

        Raises:
            TrainingError: If there are too many in a row.
        """
        if self.count <= self._max_skipped:
            return
        loss, norm = values["loss"], values["grad_norm"]
        found = f"the loss is {loss:.4g} and the gradient norm {norm:.4g}"
        if math.isfinite(loss) and math.isfinite(norm):
            found += ", but the new weights would not be finite"
        raise TrainingError(
            f"At step {step} {found}, at a learning rate of "
            f"{values['learning_rate']:.3g}; {self.count} steps in a row have been "
            "skipped for that, more than config.max_skipped_steps. "
            f"{self.advise(checkpoints)}"
        )

    def check_end(self, step: int, checkpoints: Sequence[int]) -> None:
        """Raises TrainingError if the run ends while steps are being skipped."""
        if self._is_skipping:
            raise TrainingError(
                f"The run ends at step {step}, but the last "
                f"{step - self._last_applied} steps have been skipped because the "
                "loss, the gradient or the new weights were not finite. "
                f"{self.advise(checkpoints)}"
            )

    def check_results(
        self, step: int, results: Mapping[str, float], checkpoints: Sequence[int]
    ) -> None:
        """Raises TrainingError if the loss of an evaluation is not finite."""
        loss = results.get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The evaluation at step {step} gives a loss of {loss}. "
                f"{self.advise(checkpoints)}"
            )

    def advise(self, checkpoints: Sequence[int]) -> str:
        """Returns advice on the checkpoint to restart from.

        A checkpoint is known to be good if a step was applied after it: its loss, its
        gradient and the weights after it were finite.

        Args:
            checkpoints: Steps that have a checkpoint.
        """
        good = [step for step in checkpoints if step < self._last_applied]
        others = [str(step) for step in checkpoints if step >= self._last_applied]
        how = "with a lower learning rate, for one, and --change-config"
        if not good:
            return (
                "There is no checkpoint from which a step could be made: start again "
                "in another workdir with a lower learning rate, for one."
            )
        if others:
            return (
                f"The checkpoint of step {good[-1]} is good. From that of step "
                f"{others[0]} no step could be made: move it out of checkpoints/ and "
                f"start again {how}."
            )
        return f"The checkpoint of step {good[-1]} is good: start again from it {how}."
