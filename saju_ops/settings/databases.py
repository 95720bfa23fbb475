"""The databases, the zones of their times, and the zone of days and schedules."""

from functools import cached_property
from typing import ClassVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from pydantic import SecretStr

from saju_ops.database.connect import SUPPORTED, parse_database_url
from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import setting
from saju_ops.settings.values import DatabaseAddress, DrillServers, Replicas, Zone


class Databases(Feature):
    """Which databases there are, and in which zones their times are."""

    title: ClassVar[str] = "Databases and time zones"
    page: ClassVar[str] = "addresses.md"

    database_url_secret: DatabaseAddress = setting(
        "DATABASE_URL",
        default=SecretStr("sqlite:///./local.db"),
        holds=SUPPORTED,
        about="The chatbot's database. In a password @ is written %40, / %2F and : %3A. `?ssl_disabled=true` for a"
        " MySQL on this very machine saves a tenth of an archive's CPU time",
        example="mysql+pymysql://saju:password@127.0.0.1:3306/chatbot",
    )
    jobs_database_url_secret: DatabaseAddress | None = setting(
        "JOBS_DATABASE_URL", default=None, holds=SUPPORTED, about="The database of paid reports", empty="DATABASE_URL"
    )
    analysis_database_url_secret: DatabaseAddress | None = setting(
        "ANALYSIS_DATABASE_URL",
        default=None,
        holds=SUPPORTED,
        about="The database of the speech analysis",
        empty="DATABASE_URL",
    )
    replica_urls_secret: Replicas | None = setting(
        "REPLICA_URLS",
        default=None,
        holds="addresses of MySQL replicas whose lag a purge heeds, separated by blanks",
        about="A purge with max_replica_lag_seconds waits for these",
    )
    timezone_name: Zone = setting(
        "TIMEZONE",
        default="Asia/Seoul",
        holds="the IANA name of the zone of days, partitions and schedules, such as Asia/Seoul",
        about="In which zone a day begins and ends, and in which schedules run",
    )
    database_timezone_name: Zone = setting(
        "DATABASE_TIMEZONE",
        default="UTC",
        holds="the IANA name of the zone in which columns without a zone are kept, such as UTC or Asia/Seoul",
        about="For DATETIME and `timestamp` columns, and for all of SQLite",
    )
    jobs_database_timezone_name: Zone | None = setting(
        "JOBS_DATABASE_TIMEZONE",
        default=None,
        holds="the IANA name of the zone in which the paid-report service writes times without one, such as Asia/Seoul",
        about="Where that service writes in another zone than the chatbot",
        empty="DATABASE_TIMEZONE",
    )
    analysis_database_timezone_name: Zone | None = setting(
        "ANALYSIS_DATABASE_TIMEZONE",
        default=None,
        holds="the IANA name of the zone in which the speech-analysis service writes times without one, such as"
        " Asia/Seoul",
        about="Where that service writes in another zone than the chatbot",
        empty="DATABASE_TIMEZONE",
    )

    @cached_property
    def database_url(self) -> sa.URL:
        return parse_database_url(self.database_url_secret.get_secret_value())

    @cached_property
    def jobs_database_url(self) -> sa.URL:
        secret = self.jobs_database_url_secret or self.database_url_secret
        return parse_database_url(secret.get_secret_value())

    @cached_property
    def analysis_database_url(self) -> sa.URL:
        secret = self.analysis_database_url_secret or self.database_url_secret
        return parse_database_url(secret.get_secret_value())

    @cached_property
    def dumped_urls(self) -> tuple[sa.URL, ...]:
        """Every configured database; one that two settings name is there twice."""
        return self.database_url, self.jobs_database_url, self.analysis_database_url

    @cached_property
    def replica_urls(self) -> tuple[sa.URL, ...]:
        return addresses_in(self.replica_urls_secret)

    @cached_property
    def timezone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone_name)

    @cached_property
    def database_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.database_timezone_name)

    @cached_property
    def jobs_database_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.jobs_database_timezone_name or self.database_timezone_name)

    @cached_property
    def analysis_database_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.analysis_database_timezone_name or self.database_timezone_name)


class Dumps(Feature):
    """Where dumps are proven."""

    title: ClassVar[str] = "Database dumps"
    page: ClassVar[str] = "dumps.md"

    restore_drill_urls_secret: DrillServers | None = setting(
        "RESTORE_DRILL_URL",
        default=None,
        holds="addresses of database servers on which dumps are restored for their proof, at most one of each engine,"
        " separated by blanks; their users need the right to make databases named saju_ops_drill_…",
        about="Where dumps are restored to be proven",
        empty="the dumped database's own server",
    )

    @cached_property
    def restore_drill_urls(self) -> tuple[sa.URL, ...]:
        return addresses_in(self.restore_drill_urls_secret)


def addresses_in(secret: SecretStr | None) -> tuple[sa.URL, ...]:
    """The addresses of a list that is separated by blanks."""
    return tuple(parse_database_url(each) for each in secret.get_secret_value().split()) if secret else ()
