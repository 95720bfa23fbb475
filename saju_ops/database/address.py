"""A database's address: what its options mean, for every part that connects.

Promises: each option that an address holds is honoured by our own connections and by the dump programs alike, or the
address is refused with a sentence that names the option. None is dropped in silence: where this project sets a thing
itself (time zone, date style), `overridden` says so. No sentence holds the address, which may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import sqlalchemy as sa

from saju_ops.paths import slip_in_path
from saju_ops.words import counted

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
PORTS = {"mysql": 3306, "postgresql": 5432}
# What SQLAlchemy takes for user and password; an @ behind them belongs to a password that wasn't escaped.
_LOGIN = re.compile(r"[^:/]*(?::[^@]*)?@")
_NAME = re.compile(r"[A-Za-z][\w.-]{0,39}")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

Query = Mapping[str, tuple[str, ...] | str]
Mode = Literal["", "DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"]


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
        raise ValueError(f"its engine is {family!r}" if _NAME.fullmatch(family) else "it names no engine")
    _require_known_driver(text, family)
    text, query = _split(text, family)
    try:
        url = sa.make_url(text).set(drivername=DRIVERS.get(family, family))
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError("it can't be read as a database address") from None
    if family == "sqlite":
        return _sqlite_address(url, query)
    return _mysql_address(url, query) if family in ("mysql", "mariadb") else _postgres_address(url, query)


def _require_known_driver(text: str, family: str) -> None:
    driver = _driver(text)
    others = OTHER_DRIVERS.get({"mariadb": "mysql", "postgres": "postgresql"}.get(family, family), ())
    if driver is not None and driver != _driver(f"{DRIVERS[family]}://") and driver not in others:
        named = f"driver is {driver!r}" if _NAME.fullmatch(driver) else "driver can't be read"
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
    login = _LOGIN.match(rest) if family != "sqlite" else None
    behind = rest[login.end() :] if login else rest
    if "@" in behind and family != "sqlite":
        raise ValueError("its host, database or options hold an @; write @ in a password as %40, / as %2F, : as %3A")
    place, mark, options = behind.partition("?")
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(options, keep_blank_values=True) if mark else []:
        if not value.strip():
            raise ValueError(f"its option {_shown(name)} has no value")
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


def _shown(name: str) -> str:
    return name if _NAME.fullmatch(name) else "(not shown: it may be a part of a password)"


def _single(query: Mapping[str, list[str]]) -> dict[str, str]:
    for name, values in query.items():
        if len(values) > 1:
            raise ValueError(f"its option {_shown(name)} is given {counted(len(values), 'time')}")
    return {name: values[0] for name, values in query.items()}


def _require_known(query: Mapping[str, Any], known: set[str], engine: str, hint: str = "") -> None:
    for name in query:
        if name not in known:
            raise ValueError(
                f"its option {_shown(name)} isn't one that saju_ops can honour{hint}; the address of a {engine}"
                f" database may hold {', '.join(sorted(known))}"
            )


def _login(url: sa.URL, query: dict[str, str], names: tuple[str, str, str]) -> sa.URL:
    """User, password and database, wherever they stand, in the address's own parts."""
    for option, part in zip(names, ("username", "password", "database"), strict=True):
        if option in query:
            if getattr(url, part):
                raise ValueError(f"its {part} is given twice: in the address and as the option {option}")
            url = url.set(**{part: query.pop(option)})  # type: ignore[arg-type]
    return url


def truth(name: str, value: str) -> bool:
    if value.lower() not in _TRUE + _FALSE:
        raise ValueError(f"its option {name} is {value!r}; it may be true or false")
    return value.lower() in _TRUE


def _require_number(query: Mapping[str, str], names: tuple[str, ...], least: int = 1) -> None:
    for name in names:
        if name in query and not (re.fullmatch(r"\d{1,9}", query[name]) and int(query[name]) >= least):
            raise ValueError(f"its option {name} is {query[name]!r}; it may be a whole number from {least}")


def _require_files(query: Mapping[str, str], names: tuple[str, ...]) -> None:
    for name in names:
        if name in query:
            path = Path(query[name])
            try:
                if path.is_dir():
                    next(path.iterdir(), None)
                else:
                    path.open("rb").close()
            except OSError as error:
                raise ValueError(f"its option {name} names {path}, which can't be read: {error.strerror}") from None


def _plain(url: sa.URL, query: Query) -> sa.URL:
    return url._replace(query=sa.util.immutabledict(query))


def options_of(url: sa.URL) -> dict[str, str]:
    """The options of an address, several values of one joined by commas."""
    return {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}


# --- MySQL and MariaDB ------------------------------------------------------------------------------------------

_TLS_FILES = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key")
_TLS_WORDS = ("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity", "ssl_check_hostname")
_TIMEOUTS = ("connect_timeout", "read_timeout", "write_timeout")
MYSQL_OPTIONS = {
    *_TLS_FILES, *_TLS_WORDS, *_TIMEOUTS, "ssl", "ssl_mode", "ssl_cipher", "unix_socket", "charset", "collation",
    "use_unicode", "init_command", "sql_mode", "autocommit", "local_infile", "bind_address", "program_name",
}  # fmt: skip
_MYSQL_ALIASES = {"sslmode": "ssl_mode", "socket": "unix_socket", "passwd": "password", "db": "database"}
_MODES: dict[str, Mode] = {
    "disabled": "DISABLED", "disable": "DISABLED", "preferred": "PREFERRED", "prefer": "PREFERRED",
    "required": "REQUIRED", "require": "REQUIRED", "verify_ca": "VERIFY_CA", "verify_identity": "VERIFY_IDENTITY",
    "verify_full": "VERIFY_IDENTITY",
}  # fmt: skip
_STRICTNESS: tuple[Mode, ...] = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
# What may be set at the beginning of a session, and what of it our own session sets again.
_SET = re.compile(r"\s*SET\s[^;]*;?\s*", re.IGNORECASE)
_ASSIGNED = re.compile(r"(?:@@)?(?:SESSION|LOCAL)?[\s.]*(\w+)\s*:?=", re.IGNORECASE)
_SET_AGAIN = {
    "time_zone", "sql_mode", "wait_timeout", "net_write_timeout", "net_read_timeout", "innodb_lock_wait_timeout",
    "max_execution_time", "max_statement_time", "autocommit", "character_set_client", "character_set_results",
    "character_set_connection", "collation_connection", "sql_select_limit", "max_join_size", "sql_big_selects",
    "sql_safe_updates", "sql_auto_is_null", "sql_quote_show_create", "completion_type", "foreign_key_checks",
    "unique_checks",
    "idle_transaction_timeout", "idle_readonly_transaction_timeout", "idle_write_transaction_timeout",
}  # fmt: skip


@dataclass(frozen=True)
class Tls:
    """How a MySQL or MariaDB server is to be reached. `mode` is empty where the address says nothing of it: then TLS
    is used where the server offers it."""

    mode: Mode = ""
    ca: str | None = None
    capath: str | None = None
    cert: str | None = None
    key: str | None = None
    cipher: str | None = None

    @property
    def required(self) -> bool:
        return self.mode in ("REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")

    @property
    def verified(self) -> bool:
        return self.mode in ("VERIFY_CA", "VERIFY_IDENTITY")


def _mysql_address(url: sa.URL, given: dict[str, list[str]]) -> sa.URL:
    query: dict[str, str] = {}
    for spelled, value in _single(given).items():
        name = spelled.lower().replace("-", "_")
        name = _MYSQL_ALIASES.get(name, name)
        if name in query:
            raise ValueError(f"its option {_shown(name)} is given twice")
        query[name] = value
    url = _login(url, query, ("user", "password", "database"))
    if "read_default_file" in query or "read_default_group" in query:
        raise ValueError(
            "its option read_default_file isn't honoured, since the dump programs read no option files; write what the"
            " file holds into the address"
        )
    _require_known(query, MYSQL_OPTIONS, "MySQL or MariaDB")
    _require_number(query, _TIMEOUTS)
    if query.get("charset", "utf8mb4").lower() != "utf8mb4":
        raise ValueError(f"its option charset is {query['charset']!r}; it may be utf8mb4, in which no letter is lost")
    if not query.get("collation", "utf8mb4_").lower().startswith("utf8mb4_"):
        raise ValueError(f"its option collation is {query['collation']!r}; it may be one of utf8mb4")
    if truth("autocommit", query.get("autocommit", "0")):
        raise ValueError("its option autocommit is on; saju_ops works in transactions, so it may be false")
    if not truth("use_unicode", query.get("use_unicode", "1")):
        raise ValueError("its option use_unicode is off; it may be true")
    truth("local_infile", query.get("local_infile", "0"))
    if not _SET.fullmatch(query.get("init_command", "SET x")):
        raise ValueError("its option init_command may be one SET statement")
    if "unix_socket" in query and url.host not in (None, "", "localhost", "127.0.0.1", "::1"):
        raise ValueError("it names a host and the option unix_socket, which are two ways to two servers")
    _require_files(query, _TLS_FILES)
    url = _plain(url, query)
    tls_context(mysql_tls(url))
    return url


def mysql_tls(url: sa.URL) -> Tls:
    """What the address says of TLS, for our own connections and for the programs. Raises ValueError for words that
    contradict each other."""
    q = {name.lower().replace("-", "_"): value for name, value in options_of(url).items()}
    on = {name: truth(name, q[name]) for name in (*_TLS_WORDS, "ssl") if name in q}
    word = q.get("ssl_mode", q.get("sslmode"))
    mode: Mode = ""
    if word is not None:
        found = _MODES.get(word.lower().replace("-", "_"))
        if found is None:
            raise ValueError(
                f"its option ssl_mode is {word!r}; it may be DISABLED, PREFERRED, REQUIRED, VERIFY_CA or"
                " VERIFY_IDENTITY"
            )
        mode = found
    off = on.get("ssl_disabled", False) or on.get("ssl") is False
    if off and mode not in ("", "DISABLED"):
        raise ValueError(f"its options ssl_mode={mode} and ssl_disabled (or ssl=false) contradict each other")
    wanted = _wanted(q, on)
    if off or mode == "DISABLED":
        mode = "DISABLED"
    elif mode == "PREFERRED" and wanted:
        raise ValueError(
            "its option ssl_mode is PREFERRED, which checks no certificate, so its other TLS options would do nothing;"
            " it may be REQUIRED, VERIFY_CA or VERIFY_IDENTITY"
        )
    elif mode == "":
        mode = wanted
    elif wanted and _STRICTNESS.index(wanted) > _STRICTNESS.index(mode):
        # A certificate authority that is named is used: a word that asks for less doesn't make it idle.
        mode = "VERIFY_IDENTITY" if _identity(on) else "VERIFY_CA"
    if mode in ("VERIFY_CA", "VERIFY_IDENTITY") and on.get("ssl_verify_cert") is False:
        raise ValueError("its option ssl_verify_cert is off, and another one wants the certificate verified")
    return Tls(mode, q.get("ssl_ca"), q.get("ssl_capath"), q.get("ssl_cert"), q.get("ssl_key"), q.get("ssl_cipher"))


def _identity(on: Mapping[str, bool]) -> bool:
    return on.get("ssl_verify_identity", False) or on.get("ssl_check_hostname", False)


def _wanted(q: Mapping[str, str], on: Mapping[str, bool]) -> Mode:
    """What the options besides ssl_mode ask for: with a certificate authority the server's name counts, too."""
    named = "ssl_ca" in q or "ssl_capath" in q
    if on.get("ssl_verify_identity") or (on.get("ssl_check_hostname") and (named or on.get("ssl_verify_cert"))):
        return "VERIFY_IDENTITY"
    if named and on.get("ssl_verify_cert") is False:
        return "REQUIRED"
    if named:
        return "VERIFY_CA" if False in (on.get("ssl_check_hostname"), on.get("ssl_verify_identity")) else (
            "VERIFY_IDENTITY"
        )  # fmt: skip
    if on.get("ssl_verify_cert"):
        return "VERIFY_CA"
    return "REQUIRED" if on.get("ssl") or {"ssl_cert", "ssl_key", "ssl_cipher"} & q.keys() else ""


def tls_context(tls: Tls) -> Any:
    """The ssl.SSLContext of a connection that must be encrypted; None where it needn't be. Raises ValueError where a
    file holds no certificate or key."""
    import ssl

    if not tls.required:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca, capath=tls.capath)
        # The certificates that MySQL makes for itself don't pass it.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = tls.mode == "VERIFY_IDENTITY"
        context.verify_mode = ssl.CERT_REQUIRED if tls.verified else ssl.CERT_NONE
        if tls.cert or tls.key:
            context.load_cert_chain(tls.cert or tls.key or "", keyfile=tls.key)
        if tls.cipher:
            context.set_ciphers(tls.cipher)
    except (ssl.SSLError, OSError) as error:
        named = [f"ssl_{name}" for name in ("ca", "cert", "key", "cipher") if getattr(tls, name)]
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"its option {' or '.join(named)} can't be used ({why})") from None
    return context


def init_command_matters(url: sa.URL) -> bool:
    """Whether the address's init_command sets something that the dump programs don't set again by themselves."""
    command = options_of(url).get("init_command", "")
    names = [name.lower() for name in _ASSIGNED.findall(command)]
    return bool(command) and not (names and {*names} <= _SET_AGAIN)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------

POSTGRES_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    # A limit would leave rows out.
    "gin_fuzzy_search_limit": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "lock_timeout": "10s",
    # How texts, arrays and XML of statements are read, and names of the catalogue written.
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "xmloption": "content",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    # Whatever a role's own is: what the catalogue says under a lock must be of now, not of the transaction's begin.
    "default_transaction_isolation": "read committed",
    # Rows that a policy would hide make the statement fail instead of being left out silently.
    "row_security": "off",
}
# The version, as libpq numbers it, from which on a server has the setting.
POSTGRES_SINCE = {"idle_session_timeout": 140_000, "transaction_timeout": 170_000}
# What the server takes when a session begins and not later.
_AT_START = {
    "ignore_system_indexes", "jit_debugging_support", "jit_profiling_support", "local_preload_libraries",
    "log_connections", "log_disconnections", "post_auth_delay", "session_preload_libraries",
}  # fmt: skip
_LIBPQ_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile")
POSTGRES_OPTIONS = {
    *_LIBPQ_FILES, "host", "hostaddr", "port", "options", "sslmode", "sslnegotiation", "sslpassword", "sslcertmode",
    "sslsni", "sslcompression", "ssl_min_protocol_version", "ssl_max_protocol_version", "requirepeer", "require_auth",
    "channel_binding", "gssencmode", "gssdelegation", "krbsrvname", "gsslib", "target_session_attrs",
    "load_balance_hosts", "connect_timeout", "tcp_user_timeout", "keepalives", "keepalives_idle",
    "keepalives_interval", "keepalives_count", "application_name", "fallback_application_name", "client_encoding",
    "service",
}  # fmt: skip
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# One setting in `options`: -c name=value, -cname=value or --name=value, blanks in a value escaped by a backslash.
_GIVEN = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|[^\s\\])*)")


def _postgres_address(url: sa.URL, given: dict[str, list[str]]) -> sa.URL:
    hosts = {str(name): given.pop(name) for name in ("host", "port") if name in given}
    query = _single(given)
    if "ssl" in query:  # as asyncpg calls it
        word = query.pop("ssl")
        query.setdefault("sslmode", {**dict.fromkeys(_TRUE, "require"), **dict.fromkeys(_FALSE, "disable")}.get(
            word.lower(), word))  # fmt: skip
    url = _login(url, query, ("user", "password", "dbname"))
    if "service" in query:
        url, hosts = _with_service(url, query, hosts)
    url, more = _one_place(url, hosts)
    hint = ""
    if {"schema", "currentSchema", "search_path"} & query.keys():
        hint = " (a schema is named by options=-csearch_path%3D…)"
    _require_known(query, POSTGRES_OPTIONS, "PostgreSQL", hint)
    if query.get("sslmode", "prefer") not in _SSLMODES:
        raise ValueError(f"its option sslmode is {query['sslmode']!r}; it may be {', '.join(_SSLMODES)}")
    if query.get("client_encoding", "utf8").lower().replace("-", "") not in ("utf8", "auto"):
        raise ValueError(f"its option client_encoding is {query['client_encoding']!r}; it may be UTF8")
    if not re.fullmatch(r"-?\d{1,9}", query.get("connect_timeout", "10")):
        raise ValueError(f"its option connect_timeout is {query['connect_timeout']!r}; it may be a number of seconds")
    # libpq's own word for the system's certificates.
    system = ("sslrootcert",) if query.get("sslrootcert") == "system" else ()
    _require_files(query, tuple(name for name in _LIBPQ_FILES if name not in system))
    return _plain(url, {**query, **more})


def _one_place(url: sa.URL, hosts: dict[str, list[str]]) -> tuple[sa.URL, dict[str, str]]:
    """One host is put into the address itself, so that two addresses of one server are alike; several, and the folder
    of a socket, among the options."""
    if not hosts:
        return url, {}
    if url.host or ("port" in hosts and url.port):
        raise ValueError("its host or port is given twice")
    names, ports = hosts.get("host", []), hosts.get("port", [])
    if len(names) > 1 or (len(names) == 1 and not ports and re.fullmatch(r"[^/:\[\]]+:\d+", names[0])):
        pairs = [name.rpartition(":") if re.search(r":\d+$", name) else (name, "", "") for name in names]
        if ports:
            raise ValueError("its ports are given twice")
        names, ports = [",".join(p[0] for p in pairs)], [",".join(p[2] or "5432" for p in pairs)]
    host, port = ",".join(names), ",".join(ports)
    if not re.fullmatch(r"[\d,]*", port):
        raise ValueError("its option port isn't a number")
    if host.startswith("/") or "," in host + port:
        found = {name: value for name, value in (("host", host), ("port", port)) if value}
        if url.port and "port" not in found:
            found["port"] = str(url.port)
        return url._replace(port=None), found
    url = url.set(host=host) if host else url
    return (url.set(port=int(port)) if port else url), {}


def _with_service(
    url: sa.URL, query: dict[str, str], hosts: dict[str, list[str]]
) -> tuple[sa.URL, dict[str, list[str]]]:
    """What the connection service file says, where the address doesn't: read here, so that its options and ours are
    put together, and every part knows the host. Raises ValueError."""
    import os

    name = query.pop("service")
    files = [os.environ.get("PGSERVICEFILE") or "~/.pg_service.conf"]
    if folder := os.environ.get("PGSYSCONFDIR"):
        files.append(f"{folder}/pg_service.conf")
    for path in (Path(file).expanduser() for file in files):
        found = _service_section(path, name) if path.is_file() else None
        if found is not None:
            break
    else:
        raise ValueError(f"its option service is {name!r}, which none of {', '.join(files)} holds")
    for option, part in (("user", "username"), ("password", "password"), ("dbname", "database")):
        value = found.pop(option, "")
        if value and not getattr(url, part):
            url = url.set(**{part: value})  # type: ignore[arg-type]
    here, port = found.pop("host", ""), found.pop("port", "")
    if here and not (hosts or url.host):
        hosts = {"host": [here]}
    if port and not (url.port or "port" in hosts):
        hosts = {**hosts, "port": [port]}
        if url.host:  # the port alone is the file's
            url, hosts = url.set(port=int(port)), {}
    for option, value in found.items():
        query.setdefault(option, value)
    return url, hosts


def _service_section(path: Path, name: str) -> dict[str, str] | None:
    found: dict[str, str] | None = None
    for line in map(str.strip, path.read_text(errors="replace").splitlines()):
        if line.startswith("["):
            if found is not None:
                break
            found = {} if line == f"[{name}]" else None
        elif found is not None and "=" in line and not line.startswith("#"):
            option, _, value = line.partition("=")
            found[option.strip()] = value.strip()
    return found


def postgres_options(url: sa.URL) -> tuple[str, dict[str, str]]:
    """The address's own `options`: what can only be said at the start of a session, and the settings that are made
    after it. PgBouncer takes no `options`, or takes and drops them."""
    options = options_of(url).get("options", "")
    given = {_setting(name): re.sub(r"\\(.)", r"\1", value) for name, value in _GIVEN.findall(options)}
    if _GIVEN.sub("", options).strip() or not _AT_START.isdisjoint(given):
        return options, {}
    return "", given


def postgres_session(version: int) -> dict[str, str]:
    """The settings of our own sessions on a server of that version."""
    return {name: value for name, value in POSTGRES_SESSION.items() if POSTGRES_SINCE.get(name, 0) <= version}


def _setting(name: str) -> str:
    return name.lower().replace("-", "_")


# --- SQLite -------------------------------------------------------------------------------------------------------

SQLITE_OPTIONS = {"timeout", "uri", "mode", "cache", "check_same_thread"}
# Seconds; a web application's own writes are short, ours wait for them.
SQLITE_BUSY_TIMEOUT = 30.0


def _sqlite_address(url: sa.URL, given: dict[str, list[str]]) -> sa.URL:
    query = _single(given)
    _require_known(query, SQLITE_OPTIONS, "SQLite")
    path = url.database or ""
    if url.host or url.username:
        raise ValueError("its path begins with two slashes instead of three")
    if path.startswith("file:"):
        if not truth("uri", query.get("uri", "0")):
            raise ValueError("its path begins with file:, which needs the option uri=true")
        path = unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", path))
    if not path or path == ":memory:" or query.get("mode") == "memory":
        raise ValueError("it names no file")
    # The file must be there, and is never made: of the modes only the right to write counts.
    if query.get("mode", "rw") not in ("rw", "rwc"):
        raise ValueError(
            f"its option mode is {query['mode']!r}; it may be rw or rwc, since locks and purges write. To keep saju_ops"
            " from writing, take the right to write the file from its user"
        )
    if query.get("cache", "private") != "private":
        raise ValueError(f"its option cache is {query['cache']!r}; it may be private")
    truth("check_same_thread", query.get("check_same_thread", "1"))
    timeout = query.get("timeout")
    if timeout is not None and not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", timeout):
        raise ValueError(f"its option timeout is {timeout!r}; it may be a number of seconds")
    slip = slip_in_path(path)
    if slip and not Path(path).is_file():
        raise ValueError(f"its path can't be used: {slip}")
    url = url._replace(database=str(Path(path).expanduser().absolute()))
    return _plain(url, {"timeout": timeout} if timeout is not None else {})


def busy_timeout(url: sa.URL) -> float:
    """Seconds that a SQLite database which others write is waited for."""
    return float(options_of(url).get("timeout", SQLITE_BUSY_TIMEOUT))


def require_redis_address(address: str) -> None:
    """Raises ValueError, without the address, for what Redis' client would read in another way than it was meant."""
    scheme, mark, rest = address.partition("://")
    if not mark or scheme not in ("redis", "rediss", "unix") or not rest:
        raise ValueError("not a Redis address")
    login = _LOGIN.match(rest)
    place = rest[login.end() :] if login else rest
    # The client ends the host at the first /, and takes what is behind a : for a port.
    if "@" in place or (login and re.search(r"[/?#\[\]]", login[0])):
        raise ValueError("its password isn't escaped; write @ in a password as %40, / as %2F, ? as %3F, # as %23")
    port = re.fullmatch(r"(?:\[[^\]]+\]|[^:/?]*):([^/?]*)(?:[/?].*)?", place)
    if scheme != "unix" and port and not re.fullmatch(r"\d{1,5}", port[1]):
        raise ValueError("its port isn't a number")


# --- addresses of services ----------------------------------------------------------------------------------------


def require_http_address(value: str) -> None:
    """Raises ValueError for what is no http(s) address of a host, and for one with a login."""
    if not value.isprintable() or re.search(r"[\s'\"`<>\\;,$]", value):
        raise ValueError("it holds a blank, a quote or another character that no such address has")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address here can't hold a login")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("its port isn't a number from 1 to 65535")


# --- all of them --------------------------------------------------------------------------------------------------


def overridden(url: sa.URL) -> list[str]:
    """The settings in the address's options that don't hold, because this project sets them itself."""
    options = options_of(url)
    if url.get_backend_name() == "postgresql":
        given = {_setting(n): re.sub(r"\\(.)", r"\1", v) for n, v in _GIVEN.findall(options.get("options", ""))}
        ours = {**POSTGRES_SESSION, "client_encoding": "UTF8"}
        return [name for name, value in given.items() if name in ours and value.casefold() != ours[name].casefold()]
    names = [name for name in ("sql_mode",) if name in options]
    if options.get("local_infile", "0").lower() in _TRUE:
        names.append("local_infile")
    command = options.get("init_command", "")
    return names + [f"{n} in init_command" for n in map(str.lower, _ASSIGNED.findall(command)) if n in _SET_AGAIN]


def place(address: sa.URL | str) -> tuple[str, str | None, str | None, str | None]:
    """Where a database is, whoever logs in: engine, server, port, database. Two addresses of one are alike."""
    url = sa.make_url(address)
    family = url.get_backend_name().replace("mariadb", "mysql")
    options = options_of(url)
    server = options.get("unix_socket") or options.get("host") or options.get("hostaddr") or url.host
    port = None if "unix_socket" in options else options.get("port") or str(url.port or PORTS.get(family) or "") or None
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
    """The address without its password and without options, but for those that say where it is; fit for logs."""
    parsed = sa.make_url(url) if isinstance(url, str) else url
    kept = {name: value for name, value in parsed.query.items() if name in _WHERE}
    return _plain(parsed, kept).render_as_string(hide_password=True)
