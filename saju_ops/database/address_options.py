"""The options of an address: how they are looked at, whatever the engine. A refusal is a ValueError that names the
option and never the address, which may hold a password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from saju_ops.words import counted

# What SQLAlchemy takes for user and password; an @ behind them belongs to a password that wasn't escaped.
LOGIN = re.compile(r"[^:/]*(?::[^@]*)?@")
NAME = re.compile(r"[A-Za-z][\w.-]{0,39}")
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

Query = Mapping[str, tuple[str, ...] | str]


def shown_option(name: str) -> str:
    return name if NAME.fullmatch(name) else "(not shown: it may be a part of a password)"


def single(query: Mapping[str, list[str]]) -> dict[str, str]:
    for name, values in query.items():
        if len(values) > 1:
            raise ValueError(f"its option {shown_option(name)} is given {counted(len(values), 'time')}")
    return {name: values[0] for name, values in query.items()}


def require_known(query: Mapping[str, Any], known: set[str], engine: str, hint: str = "") -> None:
    for name in query:
        if name not in known:
            raise ValueError(
                f"its option {shown_option(name)} isn't one that saju_ops can honour{hint}; the address of a {engine}"
                f" database may hold {', '.join(sorted(known))}"
            )


def with_login(url: sa.URL, query: dict[str, str], names: tuple[str, str, str]) -> sa.URL:
    """User, password and database, wherever they stand, in the address's own parts."""
    for option, part in zip(names, ("username", "password", "database"), strict=True):
        if option in query:
            if getattr(url, part):
                raise ValueError(f"its {part} is given twice: in the address and as the option {option}")
            url = url.set(**{part: query.pop(option)})  # type: ignore[arg-type]
    return url


def truth(name: str, value: str) -> bool:
    if value.lower() not in TRUE + FALSE:
        raise ValueError(f"its option {name} is {value!r}; it may be true or false")
    return value.lower() in TRUE


def require_number(query: Mapping[str, str], names: tuple[str, ...], least: int = 1) -> None:
    for name in names:
        if name in query and not (re.fullmatch(r"\d{1,9}", query[name]) and int(query[name]) >= least):
            raise ValueError(f"its option {name} is {query[name]!r}; it may be a whole number from {least}")


def require_files(query: Mapping[str, str], names: tuple[str, ...]) -> None:
    for name in names:
        if name in query:
            path = Path(query[name])
            try:
                if path.is_dir():
                    next(path.iterdir(), None)
                else:
                    path.open("rb").close()
            except OSError as error:
                raise ValueError(f"its option {name} names {path}, which can't be read: {error.strerror}") from None


def with_query(url: sa.URL, query: Query) -> sa.URL:
    return url._replace(query=sa.util.immutabledict(query))


def options_of(url: sa.URL) -> dict[str, str]:
    """The options of an address, several values of one joined by commas."""
    return {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
