"""Explains errors that come from limits of the machine."""

import errno

import jax

_LESS_MEMORY = (
    "lower config.batch_size, raise config.accumulation_steps, or set "
    "config.remat='blocks'"
)


def explain_limit(error: BaseException) -> str | None:
    """Returns a sentence about the limit that was reached; None for other errors."""
    number = getattr(error, "errno", None)
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in reason:
        return f"A device has too little memory: {_LESS_MEMORY} ({reason})."
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return (
            "The machine has too little memory: lower config.data.num_workers or "
            f"config.batch_size ({reason or type(error).__name__})."
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return (
            "Too many files are open: raise the limit, such as by `ulimit -n 65536`, "
            f"or lower config.data.num_workers ({reason})."
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in reason:
        return (
            "The machine allows no more threads: raise the limit, such as by `ulimit "
            "-u 65536`, or lower config.data.num_workers."
        )
    return None
