"""Reads thousands of damaged checkpoints, and prints what became of them.

    python -m tests.fuzz_checkpoints [NUMBER]

Each must end in its documented error or in the right arrays, within two seconds of a
processor and 200 MB beyond the size of the file.
"""

import collections
import dataclasses
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from litv2_jax.convert.torch_file import write_torch_checkpoint
from tests.fuzz.judge import ORACLE, READER, Examiner, find_fault
from tests.fuzz.mutations import OF_PTH, OF_SAFETENSORS
from tests.reference import GOLDEN

# How often to damage which file: the larger ones take longer.
GOLDEN_FILES = {
    "litv2_tiny_checkpoint.pth": 1,
    "litv2_tiny_checkpoint_module_prefix.pth": 3,
    "foreign/mmengine_minimal.pth": 8,
    "foreign/contents_p2.pth": 4,
}
SMALL_FILES = {".pth": 12, ".safetensors": 12}


@dataclasses.dataclass(frozen=True)
class Case:
    """A damaged file: which, how, and what became of it.

    Attributes:
        number: The seed.
        kind: The ending of the file.
        mutation: What was done to it.
        outcome: `read`, or the name of the error.
        fault: What is wrong with that, or nothing.
        seconds: Of a processor.
        megabytes: Memory taken.
    """

    number: int
    kind: str
    mutation: str
    outcome: str
    fault: str
    seconds: float
    megabytes: float


def run(numbers: range, folder: Path, reader: str = READER) -> Iterator[Case]:
    """Yields the cases of these seeds.

    Args:
        numbers: Seeds.
        folder: Where to write the files.
        reader: What to read them with.
    """
    originals = _originals(folder)
    with Examiner(reader) as examine, Examiner(ORACLE) as consult:
        # Damage may be to what no array needs, and what the oracle reads all the same.
        undamaged = {path: consult(path)["digests"] for path in originals}
        for number in numbers:
            rng = random.Random(number)
            (original,) = rng.choices(list(originals), list(originals.values()))
            mutations = OF_PTH if original.suffix == ".pth" else OF_SAFETENSORS
            name = rng.choice(list(mutations))
            path = folder / f"case{original.suffix}"
            path.write_bytes(mutations[name](original.read_bytes(), rng))
            verdict = examine(path)
            expected = []
            if verdict["outcome"] == "read":
                expected = undamaged[original] + consult(path).get("digests", [])
            yield Case(
                number,
                original.suffix,
                name,
                verdict.get("kinds", [verdict["outcome"]])[0],
                find_fault(path, verdict, expected),
                verdict["seconds"],
                verdict["megabytes"],
            )


def _originals(folder: Path) -> dict[Path, int]:
    """Returns files to damage, and how often."""
    rng = np.random.default_rng(0)
    arrays = {
        f"layer.{np.dtype(kind).name}": (10 * rng.standard_normal((3, 2))).astype(kind)
        for kind in ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?"]
    }
    arrays["layer.bfloat16"] = np.ones((2, 5), ml_dtypes.bfloat16)
    arrays["scalar"] = np.array(7, np.int64)
    arrays["empty"] = np.zeros((0, 3), np.float32)
    originals = {GOLDEN / name: weight for name, weight in GOLDEN_FILES.items()}
    for suffix, weight in SMALL_FILES.items():
        path = folder / f"small{suffix}"
        write_torch_checkpoint(path, arrays)
        originals[path] = weight
    return originals


def summarize(cases: list[Case]) -> str:
    """Returns a table of the outcomes, and the faults in full."""
    lines = []
    for kind in (".pth", ".safetensors"):
        of_kind = [case for case in cases if case.kind == kind]
        counts = collections.Counter(case.outcome for case in of_kind)
        outcomes = ", ".join(f"{n} {name}" for name, n in counts.most_common())
        lines.append(f"{kind}: {len(of_kind)} files, {outcomes}")
    faults = [case for case in cases if case.fault]
    lines += [
        f"slowest: {max(case.seconds for case in cases):.2f} s",
        f"largest: {max(case.megabytes for case in cases):.0f} MB",
        f"faults: {len(faults)}",
        *[
            f"  {case.number} {case.kind} {case.mutation}: {case.fault}"
            for case in faults[:20]
        ],
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        cases = list(run(range(count), Path(name)))
    print(summarize(cases))
    sys.exit(any(case.fault for case in cases))
