"""What the fields of manifests may hold: types, ranges and lengths. A manifest with any other value counts for nothing,
and that is found before a run works with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, Any, NotRequired, TypeVar, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from saju_ops.errors import ProofFailed

T = TypeVar("T")
# For the dataclasses and typed dicts of manifests: no text is taken for a number; fields of later versions are ignored.
STRICT = ConfigDict(strict=True, extra="ignore")
# Years within which a clock can have been when a backup was made; also far from where a change of zone overflows.
EARLIEST, LATEST = 2000, 2200


def _instant(text: str) -> str:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or found.utcoffset() is None:
        raise ValueError("without a zone")
    if not EARLIEST <= found.year < LATEST or not EARLIEST <= found.astimezone(UTC).year < LATEST:
        raise ValueError("out of range")
    return text


def _bound(text: str) -> str:
    """Rows may be older than backups; these times are only shown."""
    if not 2 <= datetime.fromisoformat(text).year <= 9998:
        raise ValueError("out of range")
    return text


def _day(text: str) -> str:
    date.fromisoformat(text)
    return text


def _stored_name(text: str) -> str:
    if text.startswith("/") or not text.isprintable() or any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError("not a name inside the store")
    return text


Text = Annotated[str, Field(max_length=4_000)]
Name = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_stored_name)]
# With a zone, so that it can be compared with any other.
Instant = Annotated[str, Field(max_length=64), AfterValidator(_instant)]
Bound = Annotated[str, Field(max_length=64), AfterValidator(_bound)]
DayText = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$", max_length=10), AfterValidator(_day)]
Size = Annotated[int, Field(ge=0, lt=1 << 63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$", max_length=64)]


def dataclass_of(kind: type[T], raw: Mapping[str, Any], where: str) -> T:
    """An object of the dataclass, from fields of these types. Raises ProofFailed, naming the field."""
    form: Any = kind
    return kind(**validated(_form_of(form), raw, where))


def validated(kind: Any, raw: Mapping[str, Any], where: str) -> Any:
    """The dictionary, checked against its type. Raises ProofFailed, naming the field."""
    try:
        return _adapter_of(kind).validate_python(raw)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ProofFailed(
            f"{where} is not a whole manifest{_what(error)}; what it describes counts as no backup."
        ) from None


@cache
def _adapter_of(kind: Any) -> TypeAdapter[Any]:
    """Made when it is first needed: that takes milliseconds."""
    return TypeAdapter(kind)


@cache
def _form_of(kind: type) -> Any:
    """A dataclass as a typed dictionary: pydantic's strict mode takes no dictionary for an object."""
    hints = get_type_hints(kind, include_extras=True)
    needed = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    form = {name: hints[name] if is_needed else NotRequired[hints[name]] for name, is_needed in needed.items()}
    return with_config(STRICT)(TypedDict(kind.__name__, form))  # type: ignore[operator]


def _what(error: Exception) -> str:
    """The name of the wrong field, if it is one of ours; never its value."""
    first = error.errors(include_input=False, include_url=False)[0]["loc"] if isinstance(error, ValidationError) else ()
    return f" ({first[0]} is missing or not as it must be)" if first and str(first[0]).isidentifier() else ""
