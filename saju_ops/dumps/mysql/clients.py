"""Which of MySQL's and MariaDB's client programs are installed, and how each wants to be asked.

Debian's `mysqldump` is MariaDB's; Oracle's differs in options and refuses MariaDB's. So a program is asked for its
version, and its --help decides about options that not every version has.
"""

from __future__ import annotations

import functools
import shutil
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath

import sqlalchemy as sa

from saju_ops.database.address import redacted
from saju_ops.database.address_options import options_of
from saju_ops.database.families import DEFAULT_PORTS
from saju_ops.database.mysql_address import Tls, init_command_matters, mysql_tls
from saju_ops.dumps.programs import Program, ProgramMissing, asked, find_program, secret_file
from saju_ops.errors import Refused

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

    def _takes_init_command(self, url: sa.URL) -> bool:
        """Raises Refused if the address's init_command sets something that this program has no option for."""
        known = "--init-command" in self.help
        if init_command_matters(url) and not known:
            raise Refused(
                f"The address of {redacted(url)} holds the option init_command, and {self.name} can't run it: what it"
                " reads could differ. Give what it sets to the user itself (SET DEFAULT ROLE, say), or use for dumps an"
                " address without it. Nothing was done."
            )
        return known

    @contextmanager
    def program(self, url: sa.URL, more: Sequence[str]) -> Iterator[Program]:
        """The command, ready to start. The options file is memory of this process and ends with the block."""
        with secret_file(options_file(url, self.mariadb, init_command=self._takes_init_command(url))) as secret:
            command = [self.path, f"--defaults-file=/dev/fd/{secret}", *self.arguments, *more]
            yield Program(command, secrets=(secret,))


def as_argument(database: str) -> list[str]:
    """The last of a dump program's arguments. A name that begins like an option would be one."""
    return [*["--"] * database.startswith("-"), database]


def dump_client(server: str) -> Client:
    """The dump program of the server's own kind if there is one, else the other kind's. Raises ProgramMissing."""
    names = ["mariadb-dump", "mysqldump"] if server == "mariadb" else ["mysqldump", "mariadb-dump"]
    path, version = _best(names, server, f"A dump of a {server} database")
    # MariaDB's program has none of these options, and needs none.
    known = "" if "MariaDB" in version else _help(path)
    extra = tuple(option for name, option in DUMP_IF_KNOWN.items() if f"--{name}" in known)
    return Client(path, version, "MariaDB" in version, (*DUMP, *extra))


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


def options_file(url: sa.URL, mariadb: bool, *, init_command: bool = False) -> str:
    """The [client] section that connects as the address says, as our own connections do, TLS included."""
    options, tls = options_of(url), mysql_tls(url)
    lines = {"user": url.username, "password": str(url.password) if url.password is not None else None}
    if socket := options.get("unix_socket"):
        lines["socket"] = socket
    else:
        lines |= {"host": url.host or "localhost", "port": str(url.port or DEFAULT_PORTS["mysql"]), "protocol": "TCP"}
    lines |= {"bind-address": options.get("bind_address"), "loose-connect-timeout": options.get("connect_timeout")}
    lines |= {"init-command": options.get("init_command") if init_command else None}
    if tls.mode != "DISABLED":
        lines |= {f"ssl-{name}": getattr(tls, name) for name in ("ca", "capath", "cert", "key", "cipher")}
    lines |= _mariadb_tls(tls) if mariadb else _mysql_tls(tls)
    if tls.verified and not (tls.ca or tls.capath):  # the system's authorities, as ours have them
        paths = ssl.get_default_verify_paths()
        lines |= {"ssl-ca": paths.cafile} if paths.cafile else {"ssl-capath": paths.capath}
    written = [f'{name}="{_escaped(value)}"' for name, value in lines.items() if value is not None]
    return "\n".join(["[client]", *written, ""])


def _mysql_tls(tls: Tls) -> dict[str, str]:
    # Without TLS, MySQL 8's accounts need the server's public key, as PyMySQL asks for it too.
    key = {} if tls.required else {"loose-get-server-public-key": "1"}
    return {"ssl-mode": tls.mode, **key} if tls.mode else key


def _mariadb_tls(tls: Tls) -> dict[str, str]:
    """MariaDB's programs verify a named authority, and encrypt on request; only with the server's name verified do
    they refuse a server without TLS by themselves (tried with 10.11). Our own connection, which is always made first,
    refuses it in every mode that requires TLS."""
    if tls.mode == "DISABLED":
        return {"skip-ssl": "1"}
    identity = {"loose-ssl-verify-server-cert": "1" if tls.mode == "VERIFY_IDENTITY" else "0"}
    return {"ssl": "1", **identity} if tls.mode else identity


def _escaped(value: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(plain, escaped)
    return value
