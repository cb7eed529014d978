"""Formats names from users, such as those of classes and files, for messages."""

import io
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

# Control and format characters, halves of characters (which stand for bytes of a file
# name that are not UTF-8), separators of lines and paragraphs.
_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Format characters that spelling needs: Persian and Indic scripts, emoji.
_JOINERS = "\u200c\u200d"


def literal(text: str) -> str:
    """Returns the text on one line, its unprintable characters as escapes (`\\x1b`)."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _ESCAPED and character not in _JOINERS
        else character
        for character in text
    )


def allow_any_text() -> None:
    """Makes standard output print characters that its encoding lacks as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def program_name() -> str:
    """Returns the name that this program was started by, such as `litv2-train`."""
    return Path(sys.argv[0]).name


def compose(text: str) -> str:
    """Returns text in Unicode's composed form, for comparison.

    macOS stores the decomposed form of a name such as "é", other systems what they are
    given.
    """
    return unicodedata.normalize("NFC", text)


def shorten(names: Iterable[str], *, limit: int = 6, width: int = 40) -> str:
    """Returns names as a list to read: the first ones, each cut to `width` characters.

    Args:
        names: Any number of names.
        limit: How many to show.
        width: Longest name to show in full, in characters.
    """
    names = list(names)
    shown = [
        name if len(name) <= width else f"{name[: width - 3]}..."
        for name in map(literal, names[:limit])
    ]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
