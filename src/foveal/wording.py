"""Numbers of things in sentences for people."""

from __future__ import annotations


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 picture`, `2 pictures`, `11,013 boxes`; `things` is the plural where it takes more than an s or es."""
    plural = things or thing + ("es" if thing.endswith(("s", "x")) else "s")
    return f"{number:,} {thing if number == 1 else plural}"
