"""Every setting of saju_ops, read from the environment and from a `.env` file, typed and validated.

The settings of each feature are a class of their own in the modules beside this one; `Settings` has them all, and holds
what two features need of each other. It promises that a wrong value is refused before anything is touched, with a
sentence that names the variable, what it holds and what it may hold, and that a secret's value is never part of that
sentence. It refuses to guess: an unknown engine, time zone or storage is an error.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from saju_ops.database.families import family_of
from saju_ops.errors import SettingsError as SettingsError
from saju_ops.settings.alerts import Alerts, Email, Slack
from saju_ops.settings.birth_data import BirthData
from saju_ops.settings.chroma import Chroma
from saju_ops.settings.conversation_logs import ConversationLogs
from saju_ops.settings.database_reports import DatabaseReports
from saju_ops.settings.databases import Databases, Dumps
from saju_ops.settings.env_file import ENV_FILE, read_env_file, value_of
from saju_ops.settings.expired import ExpiredJobs, ExpiredSessions
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import variable_of
from saju_ops.settings.retention import Retention
from saju_ops.settings.stale import StaleJobs
from saju_ops.settings.storage import S3, GoogleDrive, Stores
from saju_ops.settings.trigger import DagsterAddresses, Trigger


# From the last to the first: pydantic has the fields of the last base first, and documents and `saju-ops status` have
# them in that order.
class Settings(
    DagsterAddresses, Trigger, Email, Slack, Alerts, StaleJobs, BirthData, ExpiredSessions, ExpiredJobs,
    DatabaseReports, Retention, Chroma, Dumps, GoogleDrive, S3, Stores, ConversationLogs, Databases,
):  # fmt: skip
    """The validated settings of all features."""

    model_config = SettingsConfigDict(defer_build=False)

    @property
    def expired_session_grace_days(self) -> int:
        days = self.expired_session_grace_days_set
        return self.log_retention_days if days is None else days

    @model_validator(mode="after")
    def _no_table_is_deleted_with_itself(self) -> Self:
        for setting, names, root, table in (
            ("SESSION_PURGE_TABLES", self.session_purge_tables, "SESSIONS_TABLE", self.sessions_table),
            ("PURGE_TABLES", self.purge_tables, "JOBS_TABLE", self.jobs_table),
        ):
            if table.casefold() in map(str.casefold, names):
                raise PydanticCustomError(
                    "root", "{setting} holds {table}, which is {root}; it may hold the tables whose rows go with a row"
                    " of that one", {"setting": setting, "table": table, "root": root},
                )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _drills_have_a_dump(self) -> Self:
        dumped = {family_of(url) for url in self.dumped_urls}
        if others := [family_of(url) for url in self.restore_drill_urls if family_of(url) not in dumped]:
            raise PydanticCustomError(
                "drill", "RESTORE_DRILL_URL names a {other} server, and no database of that kind is dumped"
                " (DATABASE_URL, JOBS_DATABASE_URL and ANALYSIS_DATABASE_URL name {dumped}); it may hold servers of"
                " their kind",
                {"other": others[0], "dumped": ", ".join(sorted(dumped))},
            )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _places_are_apart(self) -> Self:
        from saju_ops.settings.places import collisions

        if why := ". ".join(collisions(self)):
            raise PydanticCustomError("places", "{why}", {"why": why})
        return self


def features() -> list[type[Feature]]:
    """The features in the order of their fields."""
    return [base for base in reversed(Settings.__bases__) if issubclass(base, Feature)]


def setting_names() -> frozenset[str]:
    """The names of all settings, as the environment has them."""
    return frozenset(variable_of(field) for field in Settings.model_fields.values())


def current_value(variable: str) -> str | None:
    """What the environment or the .env file holds for a variable. Raises SettingsError."""
    return value_of(variable, setting_names())


def env_file_values() -> dict[str, str | None]:
    """What the .env file sets. Raises SettingsError."""
    return read_env_file(ENV_FILE, setting_names())
