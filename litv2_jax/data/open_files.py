"""Leave to hold many files open at once."""

import resource


def allow_many_open_files() -> None:
    """Raises this process's limit of open files as far as it may.

    A data set can have 1,100 shards, each of which stays open once it was read; the
    usual limit is 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
