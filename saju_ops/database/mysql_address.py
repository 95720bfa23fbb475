"""What the address of a MySQL or MariaDB database may hold, and what it says about TLS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from saju_ops.database.address_options import (
    TRUE,
    options_of,
    require_files,
    require_known,
    require_number,
    shown_option,
    single,
    truth,
    with_login,
    with_query,
)

Mode = Literal["", "DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"]

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
# Settings that may be made at the beginning of a session, and those of them that our own session makes again.
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
    """How to reach a MySQL or MariaDB server. `mode` is empty if the address doesn't mention it: then TLS is used if
    the server offers it."""

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


def mysql_address(url: sa.URL, given: dict[str, list[str]]) -> sa.URL:
    query: dict[str, str] = {}
    for spelled, value in single(given).items():
        name = spelled.lower().replace("-", "_")
        name = _MYSQL_ALIASES.get(name, name)
        if name in query:
            raise ValueError(f"its option {shown_option(name)} is given twice")
        query[name] = value
    url = with_login(url, query, ("user", "password", "database"))
    if "read_default_file" in query or "read_default_group" in query:
        raise ValueError(
            "its option read_default_file isn't honoured, since the dump programs read no option files; write what the"
            " file holds into the address"
        )
    require_known(query, MYSQL_OPTIONS, "MySQL or MariaDB")
    require_number(query, _TIMEOUTS)
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
    require_files(query, _TLS_FILES)
    url = with_query(url, query)
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


def overridden(url: sa.URL) -> list[str]:
    """The settings in the address's options that have no effect, because this project sets them itself."""
    options = options_of(url)
    names = [name for name in ("sql_mode",) if name in options]
    if options.get("local_infile", "0").lower() in TRUE:
        names.append("local_infile")
    command = options.get("init_command", "")
    return names + [f"{n} in init_command" for n in map(str.lower, _ASSIGNED.findall(command)) if n in _SET_AGAIN]
