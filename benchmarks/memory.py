"""How much memory a piece of work takes at its peak, as Linux counts it."""

import contextlib
import ctypes
import gc
import re
from pathlib import Path

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Context manager: by how much the memory of this process grows, at most.

    Counts what is resident in RAM: memory that was asked for and never touched is not.

        with PeakMemory() as memory:
            work()
        print(memory.bytes)

    Attributes:
        baseline: Resident bytes at entry.
        bytes: After the exit, how far above the baseline the process was at its
            highest. Both are None where there is no Linux /proc, as on macOS.
    """

    baseline: int | None = None
    bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        release_unused()
        self.bytes = None
        self.baseline = _read_status("VmRSS") if self.reset_peak() else None
        return self

    def reset_peak(self) -> bool:
        """Forgets what was highest so far; returns whether the system can do that."""
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:
            return False
        return True

    def __exit__(self, *exception: object) -> None:
        peak = _read_status("VmHWM")
        if self.baseline is not None and peak is not None:
            self.bytes = max(peak - self.baseline, 0)


def release_unused() -> None:
    """Gives memory that nothing holds back to the system, as far as that goes."""
    gc.collect()
    # Only glibc has this function.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _read_status(field: str) -> int | None:
    """Returns one of the sizes that /proc knows, in bytes."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
