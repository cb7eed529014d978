import os

import pytest

from litv2_jax.text import compose, literal, shorten


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$x^2$ 50% _a_ <b>", "$x^2$ 50% _a_ <b>"),
        (
            "\u732b \u043a\u043e\u0448\u043a\u0430 \u3000",
            "\u732b \u043a\u043e\u0448\u043a\u0430 \u3000",
        ),
        ("\x1b[31mred\n\x07", "\\x1b[31mred\\n\\x07"),
        # Reverses the order of the characters after it.
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
    ],
)
def test_text_is_shown_as_it_is_but_for_what_does_not_print(text, expected):
    assert literal(text) == expected
    literal(text).encode()  # No halves of characters are left.


def test_lists_are_cut_where_they_are_long():
    assert shorten([]) == ""
    assert shorten(["a", "b"]) == "a, b"
    assert shorten(map(str, range(9)), limit=3) == "0, 1, 2 and 6 more"
    assert shorten(["x" * 50], width=10) == "xxxxxxx..."
    assert shorten(["a\nb"]) == "a\\nb"


def test_both_forms_of_unicode_are_one():
    assert compose("cafe\u0301") == compose("caf\u00e9") == "caf\u00e9"
    assert compose(os.fsdecode(b"\xe9")) == os.fsdecode(b"\xe9")
