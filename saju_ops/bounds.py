"""The numbers that an operator may choose, and how large each may be, written once.

A setting, the run config of a job and the plan of the code that does the work have the same type, so a number that one
of them takes is refused by none of the others. A plan that is made in code is checked by `require_bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import Field
from pydantic.fields import FieldInfo

from saju_ops.errors import Refused

# Rows of a transaction: a larger one locks too much for too long.
LARGEST_CHUNK = 100_000

ChunkRows = Annotated[int, Field(ge=1, le=LARGEST_CHUNK)]
# Births of a transaction: all of them, with their tokens, are in one statement of some 400 bytes each.
ChunkBirths = Annotated[int, Field(ge=1, le=10_000)]
# Jobs or sessions of a transaction, each with all rows that reference it.
BatchRoots = Annotated[int, Field(ge=1, le=5_000)]
# Limits at which a run stops; the next one continues.
Most = Annotated[int, Field(ge=1)]
RuntimeSeconds = Annotated[float, Field(ge=1)]
LagSeconds = Annotated[float, Field(ge=0)]
PauseSeconds = Annotated[float, Field(ge=0, le=3_600)]

# 36500 days are a hundred years.
Days = Annotated[int, Field(ge=0, le=36_500)]
DaysFromOne = Annotated[int, Field(ge=1, le=36_500)]
Years = Annotated[int, Field(ge=1, le=100)]
# Ten years; a reminder after a month would be one that nobody expects.
StaleHours = Annotated[int, Field(ge=1, le=87_600)]
AlertHours = Annotated[int, Field(ge=1, le=720)]
# Months whose partitions are made before their first row is there.
MonthsAhead = Annotated[int, Field(ge=1, le=24)]
# Daily runs that read every backup once between them.
ShareDays = Annotated[int, Field(ge=1, le=366)]

# Days, weeks or months of which a backup is kept.
Kept = Annotated[int, Field(ge=0, le=10_000)]
KeptAlways = Annotated[int, Field(ge=1, le=1_000)]
AttachmentMegabytes = Annotated[int, Field(ge=1, le=1_000)]
# Chroma itself needs 128 MB to open anything.
ProofMegabytes = Annotated[int, Field(ge=128, le=1_000_000)]
# From the size of a test's file to more than a single server has.
DiskGigabytes = Annotated[float, Field(ge=0.001, le=10_000_000)]
CallsPerMinute = Annotated[int, Field(ge=1, le=100_000)]
Port = Annotated[int, Field(ge=1, le=65_535)]
# 0: any that is free.
ListeningPort = Annotated[int, Field(ge=0, le=65_535)]


@dataclass(frozen=True)
class Bounds:
    """The lowest and the highest value, both allowed; infinite where there is none."""

    least: float = -math.inf
    most: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most  # and no NaN

    def __str__(self) -> str:
        return f"at least {self.least}" if self.most == math.inf else f"from {self.least} to {self.most}"


def bounds_of(*types: Any) -> Bounds:
    """The bounds of a type, or of a pydantic field's annotation and metadata. For `X | None`, those of X."""
    least, most = -math.inf, math.inf
    for each in _metadata(*types):
        least, most = getattr(each, "ge", least), getattr(each, "le", most)
    return Bounds(least, most)


def _metadata(*types: Any) -> Iterator[Any]:
    for each in types:
        yield from each.metadata if isinstance(each, FieldInfo) else [each]
        yield from _metadata(*get_args(each))


def require(name: str, value: float | None, type_: Any, kind: str = "") -> None:
    """Raises Refused for a number outside of the bounds of a type. None means that nothing was chosen. `kind` is what
    the sentence calls the number, such as "a whole number "."""
    if value is not None and value not in (bounds := bounds_of(type_)):
        raise Refused(f"{name} is {value:g}; it may be {kind}{bounds}. Nothing was touched.")


def require_bounds(plan: object, names: Mapping[str, str] | None = None) -> None:
    """Raises Refused for the first field of a dataclass whose value is outside of its type's bounds. `names` are those
    that the operator knows, where they differ from the field's."""
    for field, type_ in get_type_hints(type(plan), include_extras=True).items():
        if bounds_of(type_) != Bounds():
            require((names or {}).get(field, field), getattr(plan, field), type_)
