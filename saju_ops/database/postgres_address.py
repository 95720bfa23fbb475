"""What the address of a PostgreSQL database may hold, and the settings of our own sessions there."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa

from saju_ops.database.address_options import (
    FALSE,
    TRUE,
    options_of,
    require_files,
    require_known,
    single,
    with_login,
    with_query,
)

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


def postgres_address(url: sa.URL, given: dict[str, list[str]]) -> sa.URL:
    hosts = {str(name): given.pop(name) for name in ("host", "port") if name in given}
    query = single(given)
    if "ssl" in query:  # as asyncpg calls it
        word = query.pop("ssl")
        query.setdefault("sslmode", {**dict.fromkeys(TRUE, "require"), **dict.fromkeys(FALSE, "disable")}.get(
            word.lower(), word))  # fmt: skip
    url = with_login(url, query, ("user", "password", "dbname"))
    if "service" in query:
        url, hosts = _with_service(url, query, hosts)
    url, more = _one_place(url, hosts)
    hint = ""
    if {"schema", "currentSchema", "search_path"} & query.keys():
        hint = " (a schema is named by options=-csearch_path%3D…)"
    require_known(query, POSTGRES_OPTIONS, "PostgreSQL", hint)
    if query.get("sslmode", "prefer") not in _SSLMODES:
        raise ValueError(f"its option sslmode is {query['sslmode']!r}; it may be {', '.join(_SSLMODES)}")
    if query.get("client_encoding", "utf8").lower().replace("-", "") not in ("utf8", "auto"):
        raise ValueError(f"its option client_encoding is {query['client_encoding']!r}; it may be UTF8")
    if not re.fullmatch(r"-?\d{1,9}", query.get("connect_timeout", "10")):
        raise ValueError(f"its option connect_timeout is {query['connect_timeout']!r}; it may be a number of seconds")
    # libpq's own word for the system's certificates.
    system = ("sslrootcert",) if query.get("sslrootcert") == "system" else ()
    require_files(query, tuple(name for name in _LIBPQ_FILES if name not in system))
    return with_query(url, {**query, **more})


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
    """The address's own `options`: those that can be set only at the start of a session, and settings that are made
    after it. PgBouncer refuses `options`, or accepts and drops them."""
    options = options_of(url).get("options", "")
    given = _given(options)
    if _GIVEN.sub("", options).strip() or not _AT_START.isdisjoint(given):
        return options, {}
    return "", given


def postgres_session(version: int) -> dict[str, str]:
    """The settings of our own sessions on a server of that version."""
    return {name: value for name, value in POSTGRES_SESSION.items() if POSTGRES_SINCE.get(name, 0) <= version}


def _setting(name: str) -> str:
    return name.lower().replace("-", "_")


def overridden(url: sa.URL) -> list[str]:
    """The settings in the address's options that have no effect, because this project sets them itself."""
    ours = {**POSTGRES_SESSION, "client_encoding": "UTF8"}
    given = _given(options_of(url).get("options", ""))
    return [name for name, value in given.items() if name in ours and value.casefold() != ours[name].casefold()]


def _given(options: str) -> dict[str, str]:
    return {_setting(name): re.sub(r"\\(.)", r"\1", value) for name, value in _GIVEN.findall(options)}
