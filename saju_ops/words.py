"""Numbers with their nouns, and verbs that agree with them, in English sentences."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 day`, `0 days`, `1,200 rows`; `plural` where it isn't the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def are(number: int) -> str:
    return "is" if number == 1 else "are"


def were(number: int) -> str:
    return "was" if number == 1 else "were"


def have(number: int) -> str:
    return "has" if number == 1 else "have"


def its(number: int) -> str:
    return "its" if number == 1 else "their"


def them(number: int) -> str:
    return "it" if number == 1 else "them"
