"""Reads the settings, and refuses a wrong one in a sentence."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from saju_ops.errors import SettingsError as SettingsError
from saju_ops.logins import hide_logins
from saju_ops.settings.settings import Settings, _why, current_value

_URL_FIELDS = {
    *("DATABASE_URL", "JOBS_DATABASE_URL", "ANALYSIS_DATABASE_URL", "REPLICA_URLS", "RESTORE_DRILL_URL", "REDIS_URL"),
    "DAGSTER_WEBSERVER_URL",
}


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
    field = next((f for f in Settings.model_fields.values() if f.validation_alias == variable), None)
    allowed = field.description if field else "another value"
    why = _why(item)
    if variable in _URL_FIELDS or (field is not None and "SecretStr" in str(field.annotation)):
        holds = "a value that is not shown because it may hold a secret"
    else:
        holds = repr(current_value(variable))
        if (re.search(r"[^\s'\"]@", holds) and "EMAIL" not in variable) or hide_logins(holds) != holds:
            holds = "an address that is not shown because it may hold a login"
    return f"{variable} holds {holds} ({why}); it may hold {allowed}."
