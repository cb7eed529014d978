"""Raises the limit on open files."""

import contextlib

try:
    import resource
except ImportError:  # Windows, which has no such limit.
    resource = None

# More than the shards of any data set; the hard limit may be a billion, for which other
# libraries would allocate tables. The second is the most that macOS allows.
_WANTED = (65_536, 10_240)


def allow_many_open_files() -> None:
    """Raises this process's limit on open files as far as allowed and useful.

    A data set can have 1,100 shards, each of which stays open once it has been read;
    the usual limit is 1,024. If it cannot be raised, it stays.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in _WANTED:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= limit:
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return
