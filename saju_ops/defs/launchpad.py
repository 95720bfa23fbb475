"""A run's config, looked at before there is a run.

Dagster makes a schema of its own from a config class, which knows types and no bounds: the launchpad's editor accepts 0
rows a chunk, and pydantic would refuse it in the middle of the run. But before Dagster makes a run, the code server
resolves its config and calls the hook `post_process` of the schema's types. There the config class itself is built, so
that a launch with a wrong value is refused with a sentence, and no run is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import AfterValidator, ValidationError

from saju_ops.bounds import Bounds, bounds_of

DAY = "a date as YYYY-MM-DD"
TIME = "a date and time as YYYY-MM-DD or YYYY-MM-DD HH:MM"


def _day(text: str) -> str:
    from saju_ops.rows.days import parse_day

    try:
        if text.strip():
            parse_day(text.strip(), ZoneInfo("UTC"))
    except ValueError:
        raise ValueError(DAY) from None
    return text


def _time(text: str) -> str:
    from saju_ops.errors import Refused
    from saju_ops.times import instant_of

    try:
        instant_of(text, ZoneInfo("UTC"), "")
    except Refused:
        raise ValueError(TIME) from None
    return text


# Empty where nothing was chosen: unlike None, "" is shown by the launchpad, so the field is seen.
DayText = Annotated[str, AfterValidator(_day)]
TimeText = Annotated[str, AfterValidator(_time)]


def checked_at_launch(config: type[dg.Config]) -> Callable[[dg.OpDefinition], dg.OpDefinition]:
    """The outermost decorator of an op with this config: a launch with a value that it can't hold is refused."""

    def refuse(value: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            config(**value)
        except ValidationError as error:
            raise dg.DagsterInvalidConfigError(refusal(config, error), [], value) from None
        return value

    def decorate(op: dg.OpDefinition) -> dg.OpDefinition:
        # Set on the instance: Dagster makes no instances of subclasses of a shape.
        op.config_schema.config_type.post_process = refuse  # type: ignore[union-attr,method-assign]
        return op

    return decorate


def refusal(config: type[dg.Config], error: ValidationError) -> str:
    """What the launch says: each field, its value, and what it may be."""
    sentences = []
    for item in error.errors():
        name, value = str(item["loc"][0]), item["input"]
        field = config.model_fields[name]
        bounds = bounds_of(field, field.annotation)
        allowed = str(bounds) if bounds != Bounds() else item["msg"].removeprefix("Value error, ")
        sentences.append(f"{name} is {f'{value:g}' if isinstance(value, float) else repr(value)}; it may be {allowed}.")
    return " ".join([*sentences, "Nothing was touched."])
