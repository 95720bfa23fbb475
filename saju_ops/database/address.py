"""A database's address: the meaning of its options, for every part that connects.

Promises: each option that an address holds is honoured by our own connections and by the dump programs alike, or the
address is refused with a sentence that names the option. None is dropped in silence: where this project sets a thing
itself (time zone, date style), `overridden` says so. No sentence holds the address, which may hold a password.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

import sqlalchemy as sa

from saju_ops.database import mysql_address, postgres_address, sqlite_address
from saju_ops.database.address_options import LOGIN, NAME, options_of, shown_option, with_query
from saju_ops.database.families import DEFAULT_PORTS, family_of

SUPPORTED = "a mysql+pymysql://, mariadb+pymysql://, postgresql+psycopg:// or sqlite:/// address"
DRIVERS = {
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite",
}
# Drivers of other programs: an address that the service uses may be given as it is.
OTHER_DRIVERS = {
    "mysql": ("mysqldb", "mysqlconnector", "mariadbconnector", "cymysql", "asyncmy", "aiomysql", "pyodbc"),
    "postgresql": ("psycopg2", "psycopg2cffi", "psycopg_async", "asyncpg", "pg8000"),
    "sqlite": ("pysqlite", "aiosqlite"),
}


def parse_database_url(value: str) -> sa.URL:
    """The address as SQLAlchemy's, with the driver that saju_ops uses for that engine and its options by one name each.

    Raises ValueError (without the value: it may hold a password) for an engine or an option that isn't supported, and
    for a file in an option that can't be read.
    """
    url = _parsed(value.strip())
    if not url.database:
        raise ValueError("it names no database")
    if "://" in url.database:
        raise ValueError("it holds more than one address")
    return url


def with_known_options(url: sa.URL) -> sa.URL:
    """An address that another part made, checked in the same way; it needn't name a database. Raises ValueError."""
    return _parsed(url.render_as_string(hide_password=False)) if url.query else url


def _parsed(text: str) -> sa.URL:
    if not text.isprintable():
        raise ValueError("it holds a line break or another character that can't be seen")
    family = text.partition("://")[0].split("+")[0].lower()
    if "://" in text and family not in DRIVERS:
        raise ValueError(f"its engine is {family!r}" if NAME.fullmatch(family) else "it names no engine")
    _require_known_driver(text, family)
    text, query = _split(text, family)
    try:
        url = sa.make_url(text).set(drivername=DRIVERS.get(family, family))
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError("it can't be read as a database address") from None
    if family == "sqlite":
        return sqlite_address.sqlite_address(url, query)
    if family in ("mysql", "mariadb"):
        return mysql_address.mysql_address(url, query)
    return postgres_address.postgres_address(url, query)


def _require_known_driver(text: str, family: str) -> None:
    driver = _driver(text)
    others = OTHER_DRIVERS.get({"mariadb": "mysql", "postgres": "postgresql"}.get(family, family), ())
    if driver is not None and driver != _driver(f"{DRIVERS[family]}://") and driver not in others:
        named = f"driver is {driver!r}" if NAME.fullmatch(driver) else "driver can't be read"
        ours = _driver(f"{DRIVERS[family]}://")
        raise ValueError(f"its {named}, which is none of {', '.join(filter(None, (ours, *others)))}")


def _driver(text: str) -> str | None:
    scheme, mark, _ = text.partition("://")
    return scheme.lower().partition("+")[2] if mark and "+" in scheme else None


def driver_not_used(value: str) -> str:
    """The driver that an address names where saju_ops uses another one; else empty."""
    value = value.strip()
    family = value.partition("://")[0].split("+")[0].lower()
    driver = _driver(value)
    return driver if driver and driver != _driver(f"{DRIVERS.get(family, '')}://") else ""


def _split(text: str, family: str) -> tuple[str, dict[str, list[str]]]:
    """The address without its options, and these. Raises ValueError where it shows that a password wasn't escaped."""
    scheme, _, rest = text.partition("://")
    login = LOGIN.match(rest) if family != "sqlite" else None
    behind = rest[login.end() :] if login else rest
    if "@" in behind and family != "sqlite":
        raise ValueError("its host, database or options hold an @; write @ in a password as %40, / as %2F, : as %3A")
    place, mark, options = behind.partition("?")
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(options, keep_blank_values=True) if mark else []:
        if not value.strip():
            raise ValueError(f"its option {shown_option(name)} has no value")
        query.setdefault(name, []).append(value)
    hosts, slash, database = place.partition("/")
    if family.startswith("postgres") and ("," in hosts or "%2f" in hosts.lower()):
        place = slash + database
        _add_hosts(query, hosts)
    return f"{scheme}://{login[0] if login else ''}{place}", query


def _add_hosts(query: dict[str, list[str]], hosts: str) -> None:
    """`a:1,b:2`, or a socket's folder with %2F, as libpq writes them: SQLAlchemy wants them among the options."""
    if "host" in query or "port" in query:
        raise ValueError("its hosts are given twice")
    pairs = [re.fullmatch(r"(\[[^\]]+\]|[^:]*)(?::(\d*))?", each) for each in hosts.split(",")]
    if not all(pairs):
        raise ValueError("it can't be read as a database address")
    query["host"] = [",".join(unquote(pair[1]).strip("[]") for pair in pairs if pair)]
    if any(pair and pair[2] for pair in pairs):
        query["port"] = [",".join((pair[2] or "5432") for pair in pairs if pair)]


def overridden(url: sa.URL) -> list[str]:
    """The settings in the address's options that have no effect, because this project sets them itself."""
    engine = postgres_address if url.get_backend_name() == "postgresql" else mysql_address
    return engine.overridden(url)


def place(address: sa.URL | str) -> tuple[str, str | None, str | None, str | None]:
    """The place of a database, without the login: engine, server, port, database. Two addresses of a database are
    alike."""
    url = sa.make_url(address)
    family = family_of(url)
    options = options_of(url)
    server = options.get("unix_socket") or options.get("host") or options.get("hostaddr") or url.host
    usual = url.port or DEFAULT_PORTS.get(family)
    port = None if "unix_socket" in options else options.get("port") or str(usual or "") or None
    return family, server, port, url.database


def same_place(source: str, url: sa.URL) -> bool:
    """Whether a stored backup is of this database, also where it is from a version that left the socket or the hosts
    of an address out of its manifest."""
    then, now = place(source), place(url)
    if then == now:
        return True
    moved = now[1] or ""
    listed = moved.startswith("/") or "," in moved
    return listed and (then[0], then[3]) == (now[0], now[3]) and then[1] in (None, "localhost", "127.0.0.1")


# What of the options says where a database is.
_WHERE = ("host", "hostaddr", "port", "unix_socket")


def redacted(url: sa.URL | str) -> str:
    """The address without its password and without options, except those that say where it is; fit for logs."""
    parsed = sa.make_url(url) if isinstance(url, str) else url
    kept = {name: value for name, value in parsed.query.items() if name in _WHERE}
    return with_query(parsed, kept).render_as_string(hide_password=True)
