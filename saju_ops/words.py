"""Numbers with their nouns, in English sentences."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 day`, `0 days`, `1,200 rows`; `plural` where it isn't the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def agreeing(number: int, one: str, many: str) -> str:
    """The form of a verb that fits the number: `is`, `are`."""
    return one if number == 1 else many
