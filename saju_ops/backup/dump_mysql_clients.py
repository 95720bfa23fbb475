"""Which of MySQL's and MariaDB's client programs are installed, and how each wants to be asked.

Debian's `mysqldump` is MariaDB's; Oracle's differs in options and refuses MariaDB's. So a program is asked for its
version, and its --help decides about options that not every version has.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath

import sqlalchemy as sa

from saju_ops.backup.dump_process import Program, ProgramMissing, asked, find_program, secret_file

DUMP = (
    "--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob", "--tz-utc",
    "--default-character-set=utf8mb4", "--skip-lock-tables", "--no-tablespaces", "--max-allowed-packet=1G",
    "--comments", "--quote-names",
)  # fmt: skip
# Passed where the program's --help has them.
DUMP_IF_KNOWN = {
    "set-gtid-purged": "--set-gtid-purged=OFF",
    "column-statistics": "--column-statistics=0",
}
RESTORE = (
    # Without --comments MariaDB's client strips the comments out of routines.
    "--batch", "--comments", "--default-character-set=utf8mb4", "--max-allowed-packet=1G",
    # No \! and the like from the stream, and no file of this machine for a server that asks.
    "--binary-mode", "--local-infile=0",
)  # fmt: skip


@dataclass(frozen=True)
class Client:
    path: str
    version: str
    mariadb: bool
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return PurePath(self.path).name

    @property
    def help(self) -> str:
        return _help(self.path)

    @contextmanager
    def program(self, url: sa.URL, more: Sequence[str]) -> Iterator[Program]:
        """The command, ready to start. The options file is memory of this process and ends with the block."""
        with secret_file(options_file(url, self.mariadb)) as secret:
            command = [self.path, f"--defaults-file=/dev/fd/{secret}", *self.arguments, *more]
            yield Program(command, secrets=(secret,))


def dump_client(server: str) -> Client:
    """The dump program of the server's own kind if there is one, else the other kind's. Raises ProgramMissing."""
    names = ["mariadb-dump", "mysqldump"] if server == "mariadb" else ["mysqldump", "mariadb-dump"]
    path, version = _best(names, server, f"A dump of a {server} database")
    # Of these options MariaDB's program has none that is needed.
    known = "" if "MariaDB" in version else _help(path)
    extra = tuple(option for name, option in DUMP_IF_KNOWN.items() if f"--{name}" in known)
    return Client(path, version, "MariaDB" in version, (*DUMP, *extra))


def restore_client(server: str) -> Client:
    names = ["mariadb", "mysql"] if server == "mariadb" else ["mysql", "mariadb"]
    path, version = _best(names, server, f"A restore into a {server} database")
    return Client(path, version, "MariaDB" in version, RESTORE)


def _best(names: Sequence[str], server: str, what: str) -> tuple[str, str]:
    found = [(path, _version(path)) for name in names if (path := shutil.which(name))]
    alike = [x for x in found if ("MariaDB" in x[1]) == (server == "mariadb")]
    if not found:
        find_program(names, what)
    return (alike or found)[0]


@functools.cache
def _version(path: str) -> str:
    done = asked([path, "--no-defaults", "--version"])
    if done.returncode:
        raise ProgramMissing(f"{path} is installed but `{path} --version` fails; repair or remove it.")
    return done.stdout.strip().removeprefix(path).strip()


@functools.cache
def _help(path: str) -> str:
    return asked([path, "--no-defaults", "--help"]).stdout


# The query options of an address that PyMySQL understands → both clients' own.
TLS_FILES = {"ssl_ca": "ssl-ca", "ssl_capath": "ssl-capath", "ssl_cert": "ssl-cert", "ssl_key": "ssl-key"}


def options_file(url: sa.URL, mariadb: bool) -> str:
    """The [client] section that connects as the address says, TLS included."""
    query = {k: v if isinstance(v, str) else v[-1] for k, v in url.query.items()}
    lines = {"user": url.username, "password": str(url.password) if url.password is not None else None}
    socket = query.get("unix_socket")
    if socket:
        lines["socket"] = socket
    else:
        lines |= {"host": url.host or "localhost", "port": str(url.port or 3306), "protocol": "TCP"}
    lines |= {option: query.get(name) for name, option in TLS_FILES.items()}
    lines["ssl-cipher"] = query.get("ssl_cipher")
    lines |= _verification(query, mariadb)
    told = [f'{name}="{_escaped(value)}"' for name, value in lines.items() if value is not None]
    return "\n".join(["[client]", *told, ""])


def _verification(query: dict[str, str], mariadb: bool) -> dict[str, str]:
    """As PyMySQL does: the server's certificate is verified where the address names a CA, else not."""

    def on(name: str) -> bool:
        return query.get(name, "").lower() in ("1", "true", "yes", "on")

    if on("ssl_disabled"):
        return {"skip-ssl": "1"} if mariadb else {"ssl-mode": "DISABLED"}
    named = "ssl_ca" in query or "ssl_capath" in query
    identity = named and (on("ssl_check_hostname") or on("ssl_verify_identity"))
    if mariadb:
        return {"loose-ssl-verify-server-cert": "1" if identity else "0"}
    if not named:
        # Without TLS, MySQL 8's accounts need the server's public key, as PyMySQL asks for it too.
        return {"loose-get-server-public-key": "1"}
    return {"ssl-mode": "VERIFY_IDENTITY" if identity else "VERIFY_CA"}


def _escaped(value: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(plain, escaped)
    return value
