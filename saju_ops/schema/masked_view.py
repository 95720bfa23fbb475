"""The view `masked_user_sessions`: sessions as developers may see them.

Promises: every column that says something about a person is false, and the same session shows the same false values at
each read. They are computed from the session's id and a salt, never from the birth, so that trying out births leads
nowhere; the encrypted text isn't shown at all. Nothing can be written through the view. The salt is 32 bytes that the
server itself draws: it is in no statement, and in a table that the view's owner alone can read (not in the view's text,
which others may see). Without the salt the view shows no row.

Refuses: to make a developer's account of one that has other rights. SQLite has no accounts: a login that opens the file
can read the sessions themselves, and the view only keeps a developer's tools off them.
"""

# ruff: noqa: S608 (names are quoted by the dialect, values are parameters)

from __future__ import annotations

import re
from dataclasses import dataclass

import sqlalchemy as sa

from saju_ops.database.connect import connect
from saju_ops.dumps.without_rows import SALT_TABLE
from saju_ops.schema.migrate import catalogue
from saju_ops.schema.migrate.run import Run
from saju_ops.schema.migrate.steps import MYSQL, Step

VIEW = "masked_user_sessions"
SESSIONS = "user_sessions"
# Drawn by the server, so that no client, log or list of processes has it.
DRAWN = {
    "mysql": "RANDOM_BYTES(32)",
    "mariadb": "RANDOM_BYTES(32)",
    "postgresql": "decode(replace(concat(gen_random_uuid(), gen_random_uuid()), '-', ''), 'hex')",
    "sqlite": "randomblob(32)",
}
TYPES = {"mysql": "VARBINARY(32)", "mariadb": "VARBINARY(32)", "postgresql": "bytea", "sqlite": "BLOB"}
# PostgreSQL's default privileges may give a new table to roles.
GRANTEES = sa.text(
    "SELECT DISTINCT r.rolname FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee"
    " WHERE c.oid = to_regclass(quote_ident(:name)) AND a.grantee <> c.relowner"
)
VIEWS = {
    "mysql": "SELECT 1 FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = :name",
    "postgresql": "SELECT 1 FROM pg_class WHERE oid = to_regclass(quote_ident(:name)) AND relkind = 'v'",
    "sqlite": "SELECT 1 FROM sqlite_schema WHERE type = 'view' AND name = :name",
}
# False cities and places: a true name in the view's text might be somebody's.
CITIES = 16


def draw_sql(dialect: sa.Dialect) -> str:
    """Puts a salt into the table, unless there is one."""
    name = dialect.identifier_preparer.quote(SALT_TABLE)
    dual = " FROM DUAL" if dialect.name in MYSQL else ""
    return (
        f"INSERT INTO {name} (id, salt) SELECT 1, {DRAWN[dialect.name]}{dual}"
        f" WHERE NOT EXISTS (SELECT 1 FROM {name} AS there)"
    )


def view_sql(dialect: sa.Dialect, sessions: str = SESSIONS) -> str:
    quote = dialect.identifier_preparer.quote
    body = {"postgresql": _POSTGRES, "sqlite": _SQLITE}.get(dialect.name, _MYSQL)
    text = body.format(view=quote(VIEW), sessions=quote(sessions), salt=quote(SALT_TABLE), cities=CITIES)
    return re.sub(r"\s*\n\s*", " ", text).strip()


# TEMPTABLE: such a view can't be written through, whatever it selects. The salt is on both levels of the hash, so that
# no hash can be continued. A year and a day of the year, not a date: a date in the text might be somebody's.
_MYSQL = """
CREATE ALGORITHM=TEMPTABLE SQL SECURITY DEFINER VIEW {view} AS
SELECT LEFT(m.hash, 32) AS session_id, CONCAT('user-', LEFT(m.user_hash, 20)) AS user_id,
IF(m.has_birth, MAKEDATE(1950 + m.a MOD 60, 1 + m.b MOD 365) + INTERVAL (m.c MOD 1440) MINUTE, NULL) AS birth_datetime,
(m.d MOD 4 = 0) AS is_lunar, (m.d MOD 48 = 0) AS is_leap_month,
IF(m.has_zone, 'Asia/Seoul', NULL) AS timezone,
IF(m.has_place, JSON_OBJECT('city', CONCAT('City ', 1 + m.e MOD {cities}), 'country', 'KR',
'lat', 34 + m.e MOD 4000 / 1000, 'lng', 126 + m.d MOD 3000 / 1000), NULL) AS birth_location,
m.created_at, m.updated_at, m.last_activity, m.expires_at
FROM (SELECT h.*, CAST(CONV(SUBSTRING(h.hash, 33, 6), 16, 10) AS UNSIGNED) AS a,
CAST(CONV(SUBSTRING(h.hash, 39, 6), 16, 10) AS UNSIGNED) AS b,
CAST(CONV(SUBSTRING(h.hash, 45, 6), 16, 10) AS UNSIGNED) AS c,
CAST(CONV(SUBSTRING(h.hash, 51, 6), 16, 10) AS UNSIGNED) AS d,
CAST(CONV(SUBSTRING(h.hash, 57, 6), 16, 10) AS UNSIGNED) AS e
FROM (SELECT SHA2(CONCAT(k.salt, SHA2(CONCAT(k.salt, 'session ', s.session_id), 256)), 256) AS hash,
SHA2(CONCAT(k.salt, SHA2(CONCAT(k.salt, 'user ', s.user_id), 256)), 256) AS user_hash,
(s.birth_datetime IS NOT NULL OR s.birth_datetime_encrypted IS NOT NULL) AS has_birth,
(s.timezone IS NOT NULL) AS has_zone, (s.birth_location IS NOT NULL) AS has_place,
s.created_at, s.updated_at, s.last_activity, s.expires_at FROM {sessions} AS s JOIN {salt} AS k) AS h) AS m
"""
# A view over a subquery can't be written through. security_barrier: no function of a reader's is called on a row before
# the view's own columns are computed.
_POSTGRES = """
CREATE VIEW {view} WITH (security_barrier = true) AS
SELECT left(m.hash, 32) AS session_id, 'user-' || left(m.user_hash, 20) AS user_id,
CASE WHEN m.has_birth THEN make_timestamp(1950 + m.a % 60, 1 + m.b % 12, 1 + m.b / 12 % 28, m.c % 24, m.c / 24 % 60, 0)
END AS birth_datetime,
m.d % 4 = 0 AS is_lunar, m.d % 48 = 0 AS is_leap_month,
CASE WHEN m.has_zone THEN 'Asia/Seoul' END AS timezone,
CASE WHEN m.has_place THEN json_build_object('city', concat('City ', 1 + m.e % {cities}), 'country', 'KR',
'lat', 34 + m.e % 4000 / 1000.0, 'lng', 126 + m.d % 3000 / 1000.0) END AS birth_location,
m.created_at, m.updated_at, m.last_activity, m.expires_at
FROM (SELECT h.*, ('x' || substr(h.hash, 33, 6))::bit(24)::integer AS a,
('x' || substr(h.hash, 39, 6))::bit(24)::integer AS b, ('x' || substr(h.hash, 45, 6))::bit(24)::integer AS c,
('x' || substr(h.hash, 51, 6))::bit(24)::integer AS d, ('x' || substr(h.hash, 57, 6))::bit(24)::integer AS e
FROM (SELECT
encode(sha256(k.salt || sha256(k.salt || convert_to('session ' || s.session_id, 'UTF8'))), 'hex') AS hash,
encode(sha256(k.salt || sha256(k.salt || convert_to('user ' || s.user_id, 'UTF8'))), 'hex') AS user_hash,
s.birth_datetime IS NOT NULL OR s.birth_datetime_encrypted IS NOT NULL AS has_birth,
s.timezone IS NOT NULL AS has_zone, s.birth_location IS NOT NULL AS has_place,
s.created_at, s.updated_at, s.last_activity, s.expires_at FROM {sessions} AS s CROSS JOIN {salt} AS k) AS h) AS m
"""
# SQLite has no hash of its own: two polynomials modulo 2^31 - 1 over the salt and the text, character by character.
# Weaker than SHA-256, and enough here, since a reader of the view can read the file.
_POLYNOMIAL = (
    "(WITH RECURSIVE p(i, v) AS (SELECT 0, {start} UNION ALL SELECT i + 1,"
    " (v * {factor} + unicode(substr(hex(k.salt) || {text}, i + 1, 1))) % 2147483647"
    " FROM p WHERE i < length(hex(k.salt) || {text})) SELECT v FROM p ORDER BY i DESC LIMIT 1)"
)
_ONE = _POLYNOMIAL.format(start=7, factor=1_000_003, text="'session ' || s.session_id")
_TWO = _POLYNOMIAL.format(start=11, factor=998_244_353, text="'session ' || s.session_id")
_USER = _POLYNOMIAL.format(start=13, factor=1_000_003, text="'user ' || s.user_id")
_SQLITE = (
    """
CREATE VIEW {view} AS
SELECT printf('%08x%08x', m.a, m.b) AS session_id, printf('user-%08x', m.u) AS user_id,
CASE WHEN m.has_birth THEN datetime(printf('%04d-01-01', 1950 + m.a % 60), printf('+%d days', m.b % 365),
printf('+%d minutes', m.a / 60 % 1440)) END AS birth_datetime,
m.b % 4 = 0 AS is_lunar, m.b % 48 = 0 AS is_leap_month,
CASE WHEN m.has_zone THEN 'Asia/Seoul' END AS timezone,
CASE WHEN m.has_place THEN json_object('city', 'City ' || (1 + m.a % {cities}), 'country', 'KR',
'lat', 34 + m.a % 4000 / 1000.0, 'lng', 126 + m.b % 3000 / 1000.0) END AS birth_location,
m.created_at, m.updated_at, m.last_activity, m.expires_at
FROM (SELECT """
    + f"{_ONE} AS a, {_TWO} AS b, {_USER} AS u,"
    + """
s.birth_datetime IS NOT NULL OR s.birth_datetime_encrypted IS NOT NULL AS has_birth,
s.timezone IS NOT NULL AS has_zone, s.birth_location IS NOT NULL AS has_place,
s.created_at, s.updated_at, s.last_activity, s.expires_at FROM {sessions} AS s JOIN {salt} AS k) AS m
"""
)


# --- the steps of its migration ------------------------------------------------------------------------------


class MakeSaltTable(Step):
    """A table that has one row. On the way down it is dropped with its row: a salt is nobody's data."""

    title = f"table {SALT_TABLE}"

    def is_done(self, connection: sa.Connection) -> bool:
        return catalogue.exists(connection, SALT_TABLE)

    def up_sql(self, dialect: sa.Dialect) -> list[str]:
        name, kind = dialect.identifier_preparer.quote(SALT_TABLE), TYPES[dialect.name]
        engine = " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4" if dialect.name in MYSQL else ""
        made = f"CREATE TABLE {name} (id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1), salt {kind} NOT NULL){engine}"
        # MySQL and MariaDB give nobody a right by default.
        return [made, f"REVOKE ALL ON {name} FROM PUBLIC"] if dialect.name == "postgresql" else [made]

    def up(self, run: Run) -> None:
        super().up(run)
        if run.dialect.name == "postgresql":
            quote = run.dialect.identifier_preparer.quote
            for (role,) in run.connection.execute(GRANTEES, {"name": SALT_TABLE}).all():
                run.execute(f"REVOKE ALL ON {quote(SALT_TABLE)} FROM {quote(role)}")

    def down_sql(self, dialect: sa.Dialect) -> list[str]:
        return [f"DROP TABLE {dialect.identifier_preparer.quote(SALT_TABLE)}"]


class MakeSalt(Step):
    title = "the salt, which the server draws"

    def left_out(self, dialect: sa.Dialect) -> str:
        version = getattr(dialect, "server_version_info", None)
        if dialect.name == "mariadb" and version and version < (10, 10):
            return "MariaDB draws random bytes from 10.10 on, so the view shows nothing here."
        return ""

    def is_done(self, connection: sa.Connection) -> bool:
        return catalogue.rows_of(connection, SALT_TABLE) > 0

    def up_sql(self, dialect: sa.Dialect) -> list[str]:
        return [draw_sql(dialect)]

    def down_sql(self, dialect: sa.Dialect) -> list[str]:
        return [f"DELETE FROM {dialect.identifier_preparer.quote(SALT_TABLE)}"]


class MakeView(Step):
    title = f"view {VIEW}"

    def is_done(self, connection: sa.Connection) -> bool:
        return has_view(connection)

    def up_sql(self, dialect: sa.Dialect) -> list[str]:
        return [view_sql(dialect)]

    def down_sql(self, dialect: sa.Dialect) -> list[str]:
        return [f"DROP VIEW {dialect.identifier_preparer.quote(VIEW)}"]


# --- what is there, and what is missing ------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskedView:
    """`there`: the view. `salted`: its salt, without which it shows nothing."""

    there: bool
    salted: bool
    sessions: int = 0


def has_view(connection: sa.Connection) -> bool:
    statement = VIEWS["mysql" if connection.dialect.name in MYSQL else connection.dialect.name]
    return connection.execute(sa.text(statement), {"name": VIEW}).first() is not None


def look_at_view(url: sa.URL) -> MaskedView:
    """Reads only."""
    with connect(url).connect() as connection:
        if not has_view(connection) or not catalogue.exists(connection, SALT_TABLE):
            return MaskedView(False, False)
        quote = connection.dialect.identifier_preparer.quote
        salted = connection.exec_driver_sql(f"SELECT COUNT(*) FROM {quote(SALT_TABLE)}").scalar_one() > 0
        shown = connection.exec_driver_sql(f"SELECT COUNT(*) FROM {quote(VIEW)}").scalar_one() if salted else 0
        return MaskedView(True, salted, int(shown))


def make_salt(url: sa.URL) -> bool:
    """Has the server draw a salt where the view has none, as after a restore: a dump doesn't hold it. True where it was
    drawn; every session is then shown under other false values than before."""
    if (view := look_at_view(url)).salted or not view.there:
        return False
    with connect(url).connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.exec_driver_sql(draw_sql(connection.dialect), execution_options={"no_parameters": True})
        connection.commit()
    return True
