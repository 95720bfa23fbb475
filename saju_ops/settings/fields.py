"""How a setting is declared: its variable, its default, what it may hold, and the words of its documents.

One declaration is all that a setting has: refusals, `docs/settings.md` and `.env.example` are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, SecretStr
from pydantic.fields import FieldInfo

from saju_ops.bounds import Bounds, bounds_of


def setting(
    variable: str, *, default: Any, holds: str, about: str = "", empty: str = "", example: str = "", blank: bool = False
) -> Any:
    """A setting of a `Feature`.

    `holds` says what the variable may hold; `{allowed}` in it becomes the bounds or the choices of the field's type.
    `about` says what the setting does, in a sentence without its full stop. `empty` says what an empty variable means,
    where there is no default. `example` is the value in `.env.example` where the default is none to begin with.
    `blank`: a value of blanks is no empty one, but a mistake.
    """
    words: dict[str, Any] = {"holds": holds, "about": about, "empty": empty, "example": example, "blank": blank}
    return Field(default=default, validation_alias=variable, json_schema_extra=words)


def variable_of(field: FieldInfo) -> str:
    return str(field.validation_alias)


def words_of(field: FieldInfo) -> Mapping[str, Any]:
    """What `setting` was given: holds, about, empty, example, blank."""
    assert isinstance(field.json_schema_extra, dict)
    return field.json_schema_extra


def is_secret(field: FieldInfo) -> bool:
    return any(part is SecretStr for part in _parts(field.annotation))


def allowed(field: FieldInfo) -> str:
    """What the variable may hold, in a phrase: "a whole number of days from 1 to 36500"."""
    words = words_of(field)
    text = str(words["holds"]).replace("{allowed}", _choices(field) or _bounds(field))
    return f"{text}; empty means {words['empty']}" if words["empty"] else text


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _bounds(field: FieldInfo) -> str:
    bounds = bounds_of(field, field.annotation)
    return str(bounds) if bounds != Bounds() else ""


def _choices(field: FieldInfo) -> str:
    choices = next((get_args(part) for part in _parts(field.annotation) if get_origin(part) is Literal), ())
    return " or ".join(filter(None, [", ".join(choices[:-1]), *choices[-1:]]))


def listed(text: str) -> tuple[str, ...]:
    """The names in a list that is separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def secret_text(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
