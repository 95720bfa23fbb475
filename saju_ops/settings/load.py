"""Reads the settings, and refuses a wrong one in a sentence."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from saju_ops.errors import SettingsError as SettingsError
from saju_ops.logins import hide_logins
from saju_ops.settings.fields import allowed, is_secret, variable_of
from saju_ops.settings.settings import Settings, current_value

# No secret by its type, and may hold one all the same.
_ADDRESS_WITH_SECRETS = {"DAGSTER_WEBSERVER_URL"}
# What pydantic says in its own words, by the beginning of its error's type.
_IN_WORDS = {
    "int": "not a whole number", "date": "not a date", "bool": "neither true nor false", "literal": "none of these",
    "string": "not readable text", "float": "not a number", "greater": "out of range", "less": "out of range",
}  # fmt: skip


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process. Raises SettingsError with one sentence per wrong variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(" ".join(_sentence(item) for item in error.errors())) from None


def _sentence(item: Any) -> str:
    if not item["loc"]:
        return f"{item['msg']}."
    variable = str(item["loc"][0])
    field = next(field for field in Settings.model_fields.values() if variable_of(field) == variable)
    if is_secret(field) or variable in _ADDRESS_WITH_SECRETS:
        holds = "a value that is not shown because it may hold a secret"
    else:
        holds = repr(current_value(variable))
        if (re.search(r"[^\s'\"]@", holds) and "EMAIL" not in variable) or hide_logins(holds) != holds:
            holds = "an address that is not shown because it may hold a login"
    return f"{variable} holds {holds} ({_why(item)}); it may hold {allowed(field)}."


def _why(item: Any) -> str:
    kind = str(item["type"])
    if kind == "value_error":  # our own
        return str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return next((words for name, words in _IN_WORDS.items() if kind.startswith(name)), "it can't be read")
