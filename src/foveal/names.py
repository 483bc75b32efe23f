"""Names that strangers gave: how they stand in a message, and which ones a class may have.

A terminal obeys control characters, so a file's own words never reach it as they are.
"""

from __future__ import annotations

import unicodedata

MAX_CLASS_NAME = 200
"""Characters."""

_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
# They turn the writing direction of whatever is printed behind them.
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(name: object, most: int = 100) -> str:
    """A foreign name on one line of at most `most` characters and an ellipsis; what does not print is escaped.

    "a\\n\\x1b[2J" comes out with a backslash, an n, a backslash and x1b; letters of every language stay.
    """
    text = str(name)
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[:most])
    return shown[:most] + ("…" if max(len(text), len(shown)) > most else "")


def is_class_name(name: str) -> bool:
    """Whether a class may be called so: 1 to 200 characters, none of which controls a terminal."""
    return 0 < len(name) <= MAX_CLASS_NAME and not any(
        unicodedata.category(one) in _CONTROLS or unicodedata.bidirectional(one) in _DIRECTIONS for one in name
    )
