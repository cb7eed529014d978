"""Time of functions that are called in turns."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from tqdm import tqdm


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, np.ndarray]:
    """Returns the seconds [rounds] of each function, called in turns.

    Args:
        functions: By name; each returns when its work is done.
        rounds: How often each is called.
        clock: `time.process_time` counts the work of all cores, `time.perf_counter`
            what passes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, function in functions.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    return {name: np.array(values) for name, values in seconds.items()}
