"""Lists and fetches the original's published weights.

python -m litv2_jax.weights list
python -m litv2_jax.weights fetch litv2_s retinanet_litv2_s_fpn_1x_coco
python -m litv2_jax.weights fetch all
"""

import argparse
import sys
from collections.abc import Sequence

from litv2_jax.weights.cache import (
    address_of,
    cache_folder,
    fetch,
    find_cached,
    find_digest,
)
from litv2_jax.weights.published import (
    PUBLISHED,
    TITLES,
    PublishedFile,
    find_published,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; prints an error and exits with status 1 if it cannot."""
    options = _parse(arguments)
    try:
        if options.command == "list":
            _list_files()
        else:
            _fetch_files(options)
    except (ValueError, OSError) as error:
        sys.exit(f"litv2_jax.weights: {error}")
    except KeyboardInterrupt:
        sys.exit("litv2_jax.weights: interrupted; the same command resumes.")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="litv2_jax.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    commands.add_parser("list", help="names, models and published scores")
    fetching = commands.add_parser("fetch", help="download, or check what is there")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="or all")
    fetching.add_argument(
        "--mirror",
        default="",
        metavar="ADDRESS",
        help="address that stands for the original's releases; LITV2_JAX_MIRROR",
    )
    return parser.parse_args(arguments)


def _list_files() -> None:
    rows = [("published:NAME", "model", "published score, %", "here")]
    rows += [_describe(file) for file in PUBLISHED.values()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print(f"\nFetched files are kept in {cache_folder()}.")


def _describe(file: PublishedFile) -> tuple[str, ...]:
    scores = ", ".join(f"{TITLES[name]} {x}" for name, x in file.scores.items())
    path = find_cached(file)
    size = f"{path.stat().st_size / 1e6:.0f} MB" if path else ""
    return file.name, file.model, scores or "figure 4 of the paper", size


def _fetch_files(options: argparse.Namespace) -> None:
    """Fetches each file, names what fails, and exits with status 1 if any did."""
    names = list(PUBLISHED) if options.names == ["all"] else options.names
    files = [find_published(f"published:{name}") for name in names]
    address_of(files[0], options.mirror)  # A wrong mirror is one error, not 26.
    num_failed = 0
    for file in files:
        try:
            path = fetch(file, mirror=options.mirror)
        except (ValueError, OSError) as error:
            num_failed += 1
            print(f"litv2_jax.weights: {error}", file=sys.stderr)
        else:
            size = path.stat().st_size
            print(f"{path}: {size:,} bytes, sha256 {find_digest(path)}")
    if num_failed:
        sys.exit(f"litv2_jax.weights: {num_failed} of {len(files)} not fetched.")


if __name__ == "__main__":
    main()
