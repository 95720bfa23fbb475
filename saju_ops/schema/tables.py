"""The tables of the three databases, as SQLAlchemy Core definitions.

Promises: the columns, keys and base indexes of SPEC section 2, creatable with `create_all` on MySQL/MariaDB,
PostgreSQL and SQLite. One MetaData per database (`chatbot`, `paid_reports`, `speech_analysis`); their table
names do not collide, so the three may share one database. A column is NOT NULL where it is a key, a foreign
key, a time or a flag, or where the service cannot work without it; what the SPEC marks null, and descriptive
JSON and text, may be NULL. Instants are TIMESTAMP on MySQL and naive UTC elsewhere.

Refuses: to describe what an installation really has. The archive, the purge and the restore read the columns
from the database they work on; these definitions serve the demo, the tests and the migrations. The composite
indexes of SPEC D2 and the log partitions belong to the migrations, not here.
"""

from typing import Any

from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

_MYSQL = ("mysql", "mariadb")
_INNODB: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in _MYSQL
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}
# Index names are unique per schema on PostgreSQL and SQLite, so each carries its table's name.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
}

chatbot = MetaData(naming_convention=_NAMES)
paid_reports = MetaData(naming_convention=_NAMES)
speech_analysis = MetaData(naming_convention=_NAMES)

# SQLite auto-increments only a column declared exactly INTEGER.
_BigKey = BigInteger().with_variant(Integer(), "sqlite")
_Instant = DateTime().with_variant(mysql.TIMESTAMP(), *_MYSQL)
# By MySQL's own types: where Dagster is imported, it makes DATETIME(6) and FLOAT(32) of SQLAlchemy's.
_Naive = DateTime().with_variant(mysql.DATETIME(), *_MYSQL)
_Float = Float().with_variant(mysql.FLOAT(), *_MYSQL)
# Without none_as_null a Python None would be stored as the JSON text 'null', which is not NULL.
_Json = JSON(none_as_null=True)


class _Now(ColumnElement[Any]):
    """A server default: the current instant in UTC, some minutes later, or renewed at every update."""

    inherit_cache = False
    type = DateTime()

    def __init__(self, plus_minutes: int = 0, on_update: bool = False) -> None:
        self.plus_minutes = plus_minutes
        self.on_update = on_update


@compiles(_Now)
def _now_in_sql(now: _Now, compiler: SQLCompiler, **_: Any) -> str:
    """CURRENT_TIMESTAMP on SQLite, which is UTC."""
    return f"(datetime('now', '+{now.plus_minutes} minutes'))" if now.plus_minutes else "CURRENT_TIMESTAMP"


@compiles(_Now, "postgresql")
def _now_in_postgresql(now: _Now, compiler: SQLCompiler, **_: Any) -> str:
    """PostgreSQL would write the session's local time into a column without a zone."""
    later = f" + interval '{now.plus_minutes} minutes'" if now.plus_minutes else ""
    return f"(timezone('utc', CURRENT_TIMESTAMP){later})"


@compiles(_Now, *_MYSQL)
def _now_in_mysql(now: _Now, compiler: SQLCompiler, **_: Any) -> str:
    """An expression default needs its parentheses; a plain CURRENT_TIMESTAMP must not have them."""
    if now.plus_minutes:
        return f"(CURRENT_TIMESTAMP + INTERVAL {now.plus_minutes} MINUTE)"
    return "CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP" if now.on_update else "CURRENT_TIMESTAMP"


def _set_now(name: str, *, index: bool = False, on_update: bool = False) -> Column[Any]:
    # Only MySQL renews a column by itself; elsewhere `onupdate` does, for updates through these tables.
    renewed = _Now() if on_update else None
    default: Any = _Now(on_update=on_update)
    return Column(name, _Instant, nullable=False, index=index, server_default=default, onupdate=renewed)


def _expires_after(minutes: int) -> Column[Any]:
    default: Any = _Now(plus_minutes=minutes)
    return Column("expires_at", _Instant, nullable=False, index=True, server_default=default)


def _flag(name: str) -> Column[Any]:
    return Column(name, Boolean, nullable=False, server_default=false())


def _choice(name: str, *values: str) -> TypeEngine[str]:
    """ENUM on MySQL; text with a check elsewhere, since a PostgreSQL type would outlive a dropped table."""
    checked = Enum(*values, name=name, native_enum=False, create_constraint=True, length=20)
    return checked.with_variant(mysql.ENUM(*values), *_MYSQL)


def _reference(name: str, target: Any, kind: TypeEngine[Any], *, cascade: bool, **more: Any) -> Column[Any]:
    key = ForeignKey(target, ondelete="CASCADE" if cascade else None)
    return Column(name, kind, key, **({"nullable": False} | more))


# --- chatbot ------------------------------------------------------------------------------------------------

users = Table(
    "users",
    chatbot,
    Column("user_id", String(255), primary_key=True),
    _set_now("created_at", index=True),
    _set_now("updated_at", on_update=True),
    Column("last_login", _Instant, nullable=True, index=True),
    Column("preferences", _Json),
    **_INNODB,
)

user_sessions = Table(
    "user_sessions",
    chatbot,
    Column("session_id", String(255), primary_key=True),
    _reference("user_id", users.c.user_id, String(255), cascade=True, index=True),
    Column("birth_datetime", _Naive, nullable=True),
    Column("birth_datetime_encrypted", Text, nullable=True),
    _flag("is_lunar"),
    _flag("is_leap_month"),
    Column("timezone", String(50), server_default=text("'Asia/Seoul'")),
    Column("birth_location", _Json),
    _set_now("created_at"),
    _set_now("updated_at", on_update=True),
    _set_now("last_activity", index=True),
    _expires_after(minutes=30),
    **_INNODB,
)

saju_calculations = Table(
    "saju_calculations",
    chatbot,
    Column("calculation_id", _BigKey, primary_key=True, autoincrement=True),
    _reference("session_id", user_sessions.c.session_id, String(255), cascade=True),
    Column("birth_datetime", _Naive, nullable=False, index=True),
    _flag("is_lunar"),
    Column("year_ganji", CHAR(2), nullable=False, index=True),
    Column("month_ganji", CHAR(2), nullable=False),
    Column("day_ganji", CHAR(2), nullable=False, index=True),
    Column("time_ganji", CHAR(2), nullable=False),
    Column("lunar_year", Integer, nullable=True),
    Column("lunar_month", Integer, nullable=True),
    Column("lunar_day", Integer, nullable=True),
    _flag("lunar_leap_month"),
    Column("season", String(10)),
    Column("jieqi", String(20)),
    _set_now("calculated_at"),
    Column("calculation_version", String(20), server_default=text("'1.0'")),
    UniqueConstraint("session_id", "birth_datetime", "is_lunar"),
    **_INNODB,
)

_ELEMENTS = ("wood", "fire", "earth", "metal", "water")

saju_analyses = Table(
    "saju_analyses",
    chatbot,
    Column("analysis_id", _BigKey, primary_key=True, autoincrement=True),
    _reference("calculation_id", saju_calculations.c.calculation_id, BigInteger(), cascade=True, index=True),
    Column("day_gan", CHAR(1), nullable=False, index=True),
    Column("day_zhi", CHAR(1), nullable=False),
    *(Column(f"ohang_{e}_count", Integer, nullable=False, server_default=text("0")) for e in _ELEMENTS),
    Column("ohang_dominant", String(10), index=True),
    Column("ohang_weakest", String(10)),
    Column("shipsung_data", _Json),
    Column("yongshin", String(10)),
    Column("gishin", String(10)),
    Column("sinsal_list", _Json),
    Column("day_gan_strength", _choice("strength", "very_weak", "weak", "neutral", "strong", "very_strong")),
    Column("overall_balance", _choice("balance", "excellent", "good", "neutral", "poor", "very_poor")),
    _set_now("analyzed_at", index=True),
    Column("analysis_version", String(20)),
    **_INNODB,
)


def conversation_log_table(name: str, metadata: MetaData) -> Table:
    """The conversation log under the name this installation uses, in `metadata`.

    Its foreign key points at `user_sessions` of `chatbot`, so it also fits a MetaData of its own: that
    creates the log table alone, in a database that has the sessions already.
    """
    if name in metadata.tables:
        return metadata.tables[name]
    return Table(
        name,
        metadata,
        Column("log_id", _BigKey, primary_key=True, autoincrement=True),
        _reference("session_id", user_sessions.c.session_id, String(255), cascade=True),
        Column("message_order", Integer, nullable=False),
        Column("role", _choice("role", "user", "assistant", "tool"), nullable=False),
        Column("content", Text, nullable=False),
        Column("model_name", String(100), nullable=True),
        Column("tool_calls", _Json, nullable=True),
        Column("tool_call_id", String(100), nullable=True),
        Column("tokens_used", Integer, nullable=True),
        Column("response_time_ms", Integer, nullable=True),
        _set_now("created_at"),
        Index(f"ix_{name}_session_id_message_order", "session_id", "message_order"),
        Index(f"ix_{name}_role", "role"),
        Index(f"ix_{name}_created_at", "created_at"),
        **_INNODB,
    )


conversation_logs = conversation_log_table("conversation_logs", chatbot)

system_metrics = Table(
    "system_metrics",
    chatbot,
    Column("metric_id", _BigKey, primary_key=True, autoincrement=True),
    Column("metric_name", String(100), nullable=False, index=True),
    Column("metric_value", Numeric(10, 4), nullable=False),
    Column("metric_unit", String(20)),
    Column("session_id", String(255), nullable=True),
    Column("endpoint", String(100), nullable=True),
    _set_now("recorded_at", index=True),
    Index(None, "session_id", "endpoint"),
    **_INNODB,
)

schema_migrations = Table(
    "schema_migrations",
    chatbot,
    Column("version", String(20), primary_key=True),
    Column("description", String(255)),
    _set_now("applied_at"),
    Column("rollback_sql", Text, nullable=True),
    **_INNODB,
)


def chatbot_tables(log_table: str) -> list[Table]:
    """The tables of the chatbot, the log under its name; parents before children."""
    others = [table for table in chatbot.sorted_tables if table is not conversation_logs]
    return [*others, conversation_log_table(log_table, MetaData(naming_convention=_NAMES))]


# --- paid reports -------------------------------------------------------------------------------------------
# No ON DELETE CASCADE here: the old code had its cascades in the ORM (SPEC C5), and a purge that relied on
# the database would leave children behind or fail. The SPEC names only some columns; the rest are the usual.

jobs = Table(
    "jobs",
    paid_reports,
    Column("id", CHAR(36), primary_key=True),
    Column("phone", String(20), nullable=False),
    Column("product", String(50), nullable=False),
    Column("status", String(20), nullable=False, index=True, server_default=text("'pending'")),
    _set_now("created_at", index=True),
    _expires_after(minutes=24 * 60),
    **_INNODB,
)


def _job_child(name: str, *columns: Any, one_per_job: bool = False) -> Table:
    """A table that hangs on `jobs`: its own key, the job, the columns, created_at."""
    return Table(
        name,
        paid_reports,
        Column("id", _BigKey, primary_key=True, autoincrement=True),
        _reference("job_id", jobs.c.id, CHAR(36), cascade=False, index=True, unique=one_per_job),
        *columns,
        _set_now("created_at", index=True),
        **_INNODB,
    )


payments = _job_child(
    "payments",
    Column("order_id", String(64), nullable=False, unique=True),
    Column("amount", Integer, nullable=False),
    Column("currency", CHAR(3), nullable=False, server_default=text("'KRW'")),
    Column("method", String(30)),
    Column("status", String(20), nullable=False),
    Column("paid_at", _Instant, nullable=True),
    one_per_job=True,
)

job_files = _job_child(
    "job_files",
    Column("kind", String(20), nullable=False),
    Column("s3_key", String(512), nullable=False),
    Column("content_type", String(100)),
    Column("size_bytes", BigInteger),
)

sms_logs = _job_child(
    "sms_logs",
    Column("phone", String(20), nullable=False),
    Column("message", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("sent_at", _Instant, nullable=True),
)

phone_verification_attempts = _job_child(
    "phone_verification_attempts",
    Column("phone", String(20), nullable=False),
    Column("code_hash", CHAR(64), nullable=False),
    _flag("succeeded"),
)

payment_failures = _job_child(
    "payment_failures",
    Column("error_code", String(50), nullable=False),
    Column("error_message", Text),
)

reports = _job_child(
    "reports",
    Column("title", String(255), nullable=False),
    Column("content", Text, nullable=False),
    one_per_job=True,
)

report_knowledge = Table(
    "report_knowledge",
    paid_reports,
    Column("id", _BigKey, primary_key=True, autoincrement=True),
    _reference("report_id", reports.c.id, BigInteger(), cascade=False, index=True),
    Column("knowledge_id", String(100), nullable=False),  # a record of the saju_knowledge collection
    Column("relevance", _Float),
    _set_now("created_at", index=True),
    **_INNODB,
)

# --- speech analysis ----------------------------------------------------------------------------------------
# The older installation, as the SPEC has it: no updated_at, and a status that no constraint guards.

analysis_jobs = Table(
    "analysis_jobs",
    speech_analysis,
    Column("job_id", String(64), primary_key=True),
    Column("emp_id", String(50), nullable=False),
    Column("folder_path", String(500), nullable=False),
    Column("status", String(20), nullable=False, index=True, server_default=text("'pending'")),
    _set_now("created_at", index=True),
    **_INNODB,
)

analysis_results = Table(
    "analysis_results",
    speech_analysis,
    _reference("job_id", analysis_jobs.c.job_id, String(64), cascade=False, primary_key=True),
    Column("file_id", String(64), primary_key=True),
    Column("status", String(20), nullable=False, server_default=text("'pending'")),
    Column("stt_text", Text),
    Column("improper_detection_results", _Json),
    **_INNODB,
)
