"""Real servers for the tests: MySQL 9.7, MariaDB 10.11, PostgreSQL 15, PgBouncer 1.18 and Redis 7, on 127.0.0.1.

Promises: a started server has a free port, a password and a temporary folder of its own; after `stop()`,
and also after SIGKILL of the process that started it, neither the server nor its folder is left. Data
survives the death of any process, not a loss of power: that is what makes the servers quick.

Refuses: to start a server of another version than it names, to stand in for a missing one, to touch a
server or a folder that it did not make, and to start Debian's own services when it installs packages.

    python -m saju_ops_tests.engines install     install what is missing (root, Debian)
    python -m saju_ops_tests.engines check       one line per engine; exit status 1 if one is missing

How nothing is left behind: a small supervisor process runs each server. It stops the server and removes
the folder on request or when its owner is gone; if the supervisor itself is killed, the kernel
kills the server (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pwd
import random
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, NoReturn, Self

# Only the standard library up here: the supervisor runs this file and must be there at once.

HOST = "127.0.0.1"
# Below the ports that the kernel hands to outgoing connections, so that none of those can take ours
# between the moment we looked and the moment the server listens.
PORTS = range(20_000, 32_000)
START_TIMEOUT = 120.0
STOP_TIMEOUT = 60.0
# p7zip-full: what opens an encrypted backup without saju_ops, as the README says.
PACKAGES = ("mariadb-server", "postgresql", "debootstrap", "percona-toolkit", "redis-server", "p7zip-full", "pgbouncer")
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
POLICY = Path("/usr/sbin/policy-rc.d")
REMEDY = (
    "run `make test` as root on Debian 12, which installs it; as another user there, run once "
    '`sudo XDG_CACHE_HOME="$HOME/.cache" .venv/bin/python -m saju_ops_tests.engines install`'
)


class EngineError(Exception):
    """A server is missing or did not start; the message says which, why and what to do."""


# --- the engines ------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What the supervisor runs: the setup commands one after the other, then the server."""

    folder: str
    setup: list[list[str]]
    serve: list[str]
    user: str | None = None
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    env: dict[str, str] = field(default_factory=dict)


class Engine:
    """One server. `with MySQL(["--default-time-zone=+09:00"]) as server:` or `start()` and `stop()`.

    `extra_args` come last on the server's command line, so they win over the defaults here.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    drivername: ClassVar[str]
    user: ClassVar[str]
    admin_database: ClassVar[str] = ""

    def __init__(self, extra_args: Sequence[str] = ()) -> None:
        self.extra_args = list(extra_args)
        self.port = 0
        self.folder: Path | None = None
        self.password = secrets.token_hex(8)
        self.supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def version_command(cls) -> list[str] | None:
        """The command that prints the server's version, or None where there is no such program."""
        raise NotImplementedError

    def plan(self, folder: Path) -> Plan:
        """How to set up and run this server with its data under `folder`."""
        raise NotImplementedError

    @classmethod
    def problem(cls) -> str | None:
        """Why this engine cannot be used, as a sentence that says what to do; None if it can."""
        command = cls.version_command()
        if command is None:
            return f"{cls.name} {cls.version} is not installed: {REMEDY}."
        found = version_shown_by(command)
        if found is None:
            return f"{cls.name} is installed but `{' '.join(command)}` fails: {REMEDY}."
        if not found.startswith(f"{cls.version}."):
            return f"{cls.name} {found} is installed, the tests need {cls.version}: {REMEDY}."
        return None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the server, password visible, without a database of the tests."""
        return self.database_url(self.admin_database)

    def database_url(self, database: str) -> str:
        return f"{self.drivername}://{self.user}:{self.password}@{HOST}:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """Process id of the server itself, for tests that kill it."""
        assert self.folder is not None, f"{self.name} is not started"
        return int((self.folder / "server.pid").read_text())

    def start(self) -> Self:
        """Start the server and return once it answers queries; an EngineError carries the end of its log."""
        if problem := self.problem():
            raise EngineError(problem)
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"saju_ops_{self.name.lower()}_"))
        (self.folder / "tmp").mkdir()
        plan = self.plan(self.folder)
        if plan.user:
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, plan.user, pwd.getpwnam(plan.user).pw_gid)
        self.supervisor = subprocess.Popen(
            # -I: this file's folder must not be on sys.path, where a test package named like a module of
            # the standard library (queue) would shadow it.
            [sys.executable, "-I", __file__, "supervise", str(os.getpid()), json.dumps(asdict(plan))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C in the terminal is for pytest, which then stops the server in good order.
            start_new_session=True,
        )
        try:
            self._wait_until_it_answers(self.supervisor)
        except BaseException:
            self.stop()
            raise
        return self

    def _answers(self) -> bool:
        from sqlalchemy.exc import OperationalError

        try:
            self.execute("SELECT 1")
            return True
        except OperationalError:
            return False

    def _wait_until_it_answers(self, supervisor: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if supervisor.poll() is not None:
                assert supervisor.stderr is not None
                log = supervisor.stderr.read().decode(errors="replace")
                raise EngineError(f"{self.name} did not start: {log}")
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise EngineError(f"{self.name} gave no answer in {START_TIMEOUT:.0f} s.")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server and remove its folder; harmless when it is stopped or dead already."""
        supervisor, self.supervisor = self.supervisor, None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        assert supervisor.stderr is not None
        # Written, not only closed: a forked child of the tests may hold the other copy of this pipe.
        with suppress(BrokenPipeError):
            supervisor.stdin.write(b"stop\n")
            supervisor.stdin.flush()
        with suppress(BrokenPipeError):
            supervisor.stdin.close()
        try:
            supervisor.wait(STOP_TIMEOUT + 10)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        supervisor.stderr.close()
        self.folder = None

    def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """Run trusted statements as administrator, each committed at once; the rows of the last one."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        rows: list[tuple[object, ...]] = []
        engine = create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
                rows = [tuple(row) for row in result] if result.returns_rows else []
        return rows

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database, dropped afterwards whoever is still connected to it."""
        database = f"test_{secrets.token_hex(6)}"
        self.create_database(database)
        try:
            yield self.database_url(database)
        finally:
            self.drop_database(database)

    def create_database(self, database: str) -> None:
        raise NotImplementedError

    def drop_database(self, database: str) -> None:
        raise NotImplementedError


class _MySQLFamily(Engine):
    """What MySQL and MariaDB have in common."""

    drivername = "mysql+pymysql"
    user = "root"

    def create_database(self, database: str) -> None:
        self.execute(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")

    def drop_database(self, database: str) -> None:
        # A connection that a failed test left open would hold its metadata locks: DROP would wait a year.
        listed = "SELECT id FROM information_schema.processlist WHERE db = "
        for (connection_id,) in self.execute(f"{listed}'{database}'"):
            with suppress(Exception):  # it may have gone by itself since
                self.execute(f"KILL {connection_id}")
        self.execute("SET SESSION lock_wait_timeout = 30", f"DROP DATABASE `{database}`")

    def _server_args(self, folder: Path) -> list[str]:
        (folder / "files").mkdir()
        return [
            f"--datadir={folder}/data",
            f"--tmpdir={folder}/tmp",
            f"--secure-file-priv={folder}/files",
            f"--pid-file={folder}/mysqld.pid",
            # Relative to the data folder: a socket's whole path may have 107 bytes at most.
            "--socket=mysql.sock",
            f"--port={self.port}",
            f"--bind-address={HOST}",
            "--skip-name-resolve",
            f"--init-file={folder}/init.sql",
            "--character-set-server=utf8mb4",
            "--local-infile=ON",
            "--skip-log-bin",
            "--innodb-buffer-pool-size=128M",
            # A killed server loses nothing with 2 (the kernel has the log). The doublewrite buffer stays
            # on: SIGKILL can cut a page write in the middle.
            "--innodb-flush-log-at-trx-commit=2",
            *self.extra_args,
        ]

    def _write_init_file(self, folder: Path, *statements: str) -> None:
        path = folder / "init.sql"
        path.touch(mode=0o600)
        path.write_text("".join(f"{statement};\n" for statement in statements))


class MySQL(_MySQLFamily):
    """MySQL 9.7 of Debian unstable, run from an unpacked tree through the tree's own dynamic loader."""

    name = "MySQL"
    version = "9.7"

    @classmethod
    def tree(cls) -> Path:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "saju_ops" / f"mysql-{cls.version}"

    @classmethod
    def program(cls, relative: str, tree: Path | None = None) -> list[str] | None:
        """The command that runs a program of the tree, such as usr/bin/mysqldump; None if it is not there."""
        tree = tree or cls.tree()
        loaders = sorted(tree.glob("usr/lib/*/ld-linux*.so.*"))
        if not loaders or not (tree / relative).exists():
            return None
        # Its libraries are newer than this machine's, so its loader and all of them come from the tree.
        return [str(loaders[0]), "--library-path", str(loaders[0].parent), str(tree / relative)]

    @classmethod
    def version_command(cls, tree: Path | None = None) -> list[str] | None:
        command = cls.program("usr/sbin/mysqld", tree)
        return command and [*command, "--version"]

    def plan(self, folder: Path) -> Plan:
        tree = self.tree()
        program = self.program("usr/sbin/mysqld")
        assert program is not None
        mysqld = [
            *program,
            "--no-defaults",
            f"--user={pwd.getpwuid(os.geteuid()).pw_name}",
            f"--basedir={tree}/usr",
            f"--lc-messages-dir={tree}/usr/share/mysql",
            f"--character-sets-dir={tree}/usr/share/mysql/charsets",
            f"--plugin-dir={tree}/usr/lib/mysql/plugin",
        ]
        self._write_init_file(
            folder,
            f"CREATE USER root@'{HOST}' IDENTIFIED WITH caching_sha2_password BY '{self.password}'",
            f"GRANT ALL ON *.* TO root@'{HOST}' WITH GRANT OPTION",
        )
        return Plan(
            folder=str(folder),
            setup=[[*mysqld, f"--datadir={folder}/data", f"--tmpdir={folder}/tmp", "--initialize-insecure"]],
            serve=[*mysqld, "--mysqlx=OFF", *self._server_args(folder)],
            # This machine's openssl.cnf is for another OpenSSL than the tree's.
            env={"OPENSSL_CONF": "/dev/null"},
        )


class MariaDB(_MySQLFamily):
    """MariaDB 10.11 of Debian 12."""

    name = "MariaDB"
    version = "10.11"

    @classmethod
    def version_command(cls) -> list[str] | None:
        programs = [shutil.which(name, path=PATH) for name in ("mariadbd", "mariadb-install-db")]
        return [programs[0], "--version"] if programs[0] and programs[1] else None

    def plan(self, folder: Path) -> Plan:
        user = f"--user={pwd.getpwuid(os.geteuid()).pw_name}"
        self._write_init_file(
            folder,
            f"CREATE OR REPLACE USER root@'{HOST}' IDENTIFIED BY '{self.password}'",
            f"GRANT ALL ON *.* TO root@'{HOST}' WITH GRANT OPTION",
        )
        setup = [
            shutil.which("mariadb-install-db", path=PATH) or "",
            "--no-defaults",
            user,
            f"--datadir={folder}/data",
            f"--tmpdir={folder}/tmp",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        server = [shutil.which("mariadbd", path=PATH) or "", "--no-defaults", user]
        return Plan(folder=str(folder), setup=[setup], serve=[*server, *self._server_args(folder)])


class PostgreSQL(Engine):
    """PostgreSQL 15 of Debian 12; as root it runs as the user `postgres`, since it refuses to run as root."""

    name = "PostgreSQL"
    version = "15"
    drivername = "postgresql+psycopg"
    user = "postgres"
    admin_database = "postgres"
    programs: ClassVar[Path] = Path("/usr/lib/postgresql/15/bin")

    @classmethod
    def version_command(cls) -> list[str] | None:
        return [str(cls.programs / "postgres"), "--version"] if (cls.programs / "initdb").exists() else None

    def plan(self, folder: Path) -> Plan:
        password_file = folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        setup = [
            str(self.programs / "initdb"),
            *("--pgdata", f"{folder}/data", "--username", self.user, "--pwfile", str(password_file)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            *("--no-sync", "--no-instructions"),
        ]
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            # fsync matters after a loss of power only, and this data does not outlive the tests.
            "fsync": "off",
            # In the data folder rather than in /dev/shm, where a killed server would leave it.
            "dynamic_shared_memory_type": "mmap",
        }
        options = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
        return Plan(
            folder=str(folder),
            setup=[setup],
            serve=[str(self.programs / "postgres"), "-D", f"{folder}/data", *options, *self.extra_args],
            user="postgres" if os.geteuid() == 0 else None,
            # "Fast" shutdown: does not wait for clients. On the supervisor's death "immediate", which
            # unlike SIGKILL also takes the backends and the shared memory along.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
        )

    def create_database(self, database: str) -> None:
        self.execute(f'CREATE DATABASE "{database}"')

    def drop_database(self, database: str) -> None:
        self.execute(f'DROP DATABASE "{database}" WITH (FORCE)')


class Redis(Engine):
    """Redis 7 of Debian 12, with a password, in memory only."""

    name = "Redis"
    version = "7"
    drivername = "redis"
    user = ""

    @classmethod
    def version_command(cls) -> list[str] | None:
        program = shutil.which("redis-server", path=PATH)
        return [program, "--version"] if program else None

    def plan(self, folder: Path) -> Plan:
        settings = folder / "redis.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f'bind {HOST}\nport {self.port}\nrequirepass {self.password}\ndir {folder}\nsave ""\nappendonly no\n'
        )
        program = shutil.which("redis-server", path=PATH) or "redis-server"
        return Plan(folder=str(folder), setup=[], serve=[program, str(settings), *self.extra_args])

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def _answers(self) -> bool:
        import redis

        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class PgBouncer(Engine):
    """PgBouncer 1.18 of Debian 12 in front of a PostgreSQL server, for all of its databases and users.

    `settings` are lines of its [pgbouncer] section; as root it runs as the user `postgres`."""

    name = "PgBouncer"
    version = "1.18"
    drivername = "postgresql+psycopg"
    user = "postgres"
    admin_database = "postgres"

    def __init__(self, server: Engine, **settings: str) -> None:
        super().__init__()
        self.server, self.settings, self.password = server, settings, server.password

    @classmethod
    def version_command(cls) -> list[str] | None:
        program = shutil.which("pgbouncer", path=PATH)
        return [program, "--version"] if program else None

    def plan(self, folder: Path) -> Plan:
        users, ini = folder / "users.txt", folder / "pgbouncer.ini"
        for path in (users, ini):
            path.touch(mode=0o600)
        users.write_text(f'"{self.user}" "{self.password}"\n')
        settings = {
            "listen_addr": HOST, "listen_port": str(self.port), "unix_socket_dir": "", "auth_type": "scram-sha-256",
            "auth_file": str(users), "auth_user": self.user,
            "auth_query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1", **self.settings,
        }  # fmt: skip
        lines = [f"{name} = {value}" for name, value in settings.items()]
        # One line for all databases: each connection is sent to the one that it names.
        databases = ["[databases]", f"* = host={HOST} port={self.server.port}"]
        ini.write_text("\n".join([*databases, "[pgbouncer]", *lines, ""]))
        program = shutil.which("pgbouncer", path=PATH) or "pgbouncer"
        user = "postgres" if os.geteuid() == 0 else None
        return Plan(folder=str(folder), setup=[], serve=[program, str(ini)], user=user)

    def _answers(self) -> bool:
        import psycopg

        try:  # statement mode takes no transaction
            with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
                return connection.execute("SELECT 1").fetchone() is not None
        except psycopg.OperationalError:
            return False


ENGINES: tuple[type[Engine], ...] = (MySQL, MariaDB, PostgreSQL, Redis)
# What the tests need besides, which none of them starts alone.
INSTALLED: tuple[type[Engine], ...] = (*ENGINES, PgBouncer)


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise EngineError(f"No free port on {HOST} from {PORTS.start} to {PORTS.stop - 1}.")


def version_shown_by(command: list[str]) -> str | None:
    """The version that a server's `--version` prints; None if it does not run."""
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    # Not the first number: the line begins with the program's path, which may hold one too.
    found = re.search(r"(?: Ver |\(PostgreSQL\) |PgBouncer | v=)(\d[\d.]*)", shown)
    return found[1] if found else None


# --- the supervisor: a process of its own -----------------------------------------------------------------


class _Supervisor:
    """Runs a plan until it is asked to stop (a line or the end of stdin, a signal) or its owner is gone."""

    def __init__(self, owner: int, plan: Plan) -> None:
        self.owner = owner
        self.plan = plan
        self.signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.signalled = True

    def asked_to_stop(self) -> bool:
        # The parent is looked at too: a forked child of the owner may keep the pipe open after its death.
        readable, _, _ = select.select([sys.stdin], [], [], 0.05)
        return bool(readable) or self.signalled or os.getppid() != self.owner

    def run(self) -> int:
        """Exit status 0 if it was asked to stop; 1, with the end of the log on stderr, if a command failed."""
        log = Path(self.plan.folder, "server.log")
        try:
            for command in self.plan.setup:
                # Never interrupted: it takes some seconds, and a killed initdb leaves shared memory behind.
                if status := self._spawn(command, log, signal.SIGKILL).wait():
                    return self._failed(command, status, log)
            if self.asked_to_stop():
                return 0
            ended = self._serve(log)
            return 0 if ended is None else self._failed(self.plan.serve, ended, log)
        finally:
            remove_folder(Path(self.plan.folder))

    def _serve(self, log: Path) -> int | None:
        """Run the server: its exit status if it ended by itself, None if it was stopped here."""
        process = self._spawn(self.plan.serve, log, self.plan.death_signal)
        Path(self.plan.folder, "server.pid").write_text(str(process.pid))
        while process.poll() is None:
            if not self.asked_to_stop():
                continue
            process.send_signal(self.plan.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT)
            with suppress(ProcessLookupError):  # what is left of its process group
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        return process.returncode

    def _spawn(self, command: list[str], log: Path, death_signal: int) -> subprocess.Popen[bytes]:
        libc = ctypes.CDLL(None)
        supervisor = os.getpid()

        def die_with_the_supervisor() -> None:
            # Runs after the change of user, which would clear it; 1 is PR_SET_PDEATHSIG.
            libc.prctl(1, death_signal)
            if os.getppid() != supervisor:
                os._exit(1)

        account = pwd.getpwnam(self.plan.user) if self.plan.user else None
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.plan.folder,
                # Nothing of the developer's: no PGPORT, no locale, no time zone.
                env={"PATH": PATH, "LANG": "C.UTF-8", "TZ": "UTC", **self.plan.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                process_group=0,
                preexec_fn=die_with_the_supervisor,
            )

    def _failed(self, command: list[str], status: int, log: Path) -> int:
        tail = log.read_text(errors="replace").splitlines()[-20:]
        print(f"`{' '.join(command)}` ended with status {status}:", *tail, sep="\n", file=sys.stderr)
        return 1


def remove_folder(folder: Path) -> None:
    # The last backends of a killed PostgreSQL may still write for a moment.
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


# --- installing -------------------------------------------------------------------------------------------


def install() -> None:
    """Install what is missing. Does nothing, and needs neither root nor network, when all is there."""
    if os.geteuid() == 0 and os_release().get("ID") == "debian" and (missing_packages() or problems()):
        tree = MySQL.tree()
        tree.parent.mkdir(parents=True, exist_ok=True)
        with locked(tree.with_name(f"{tree.name}.lock")):
            try:
                install_packages()
                if MySQL.problem():
                    build_mysql_tree(tree)
            except EngineError as error:
                if problems():
                    raise
                # Such as percona-toolkit without a network: the benchmarks need it, the tests do not.
                print(error, file=sys.stderr)
    if missing := problems():
        raise EngineError("\n".join(missing))


def problems() -> list[str]:
    return [problem for engine in INSTALLED if (problem := engine.problem())]


def os_release() -> dict[str, str]:
    with suppress(FileNotFoundError):
        lines = Path("/etc/os-release").read_text().splitlines()
        return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines) if key}
    return {}


def missing_packages() -> list[str]:
    if not shutil.which("dpkg-query", path=PATH):
        return []
    listing = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *PACKAGES]
    shown = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.splitlines()
    return [package for package in PACKAGES if f"{package} installed" not in shown]


def install_packages() -> None:
    """Install Debian's packages as far as they are missing, and read apt's lists, which name the mirror."""
    missing = missing_packages()
    if not missing and not MySQL.problem():
        return
    run("Reading the package lists", [["apt-get", "update", "-q"]])
    if missing:
        with services_stay_off():
            command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
            run(f"Installing {', '.join(missing)}", [command], DEBIAN_FRONTEND="noninteractive")


def build_mysql_tree(tree: Path) -> None:
    """Unpack MySQL and all that it needs from Debian unstable into `tree`, in place only when complete.

    debootstrap resolves, downloads and checks the packages; they are unpacked here and not configured, so
    that no script of unstable runs on this machine, nothing is mounted, and a container is enough.
    """
    partial, download = tree.with_name(f"{tree.name}.partial"), tree.with_name(f"{tree.name}.download")
    debootstrap = ["debootstrap", "--download-only", "--variant=minbase"]
    debootstrap += ["--include=mysql-server-core,mysql-client-core", "unstable", str(download)]
    try:
        for leftover in (partial, download, tree):
            if leftover.exists():
                shutil.rmtree(leftover)
        run(f"Downloading {MySQL.name} from Debian unstable", [[*debootstrap, debian_mirror()]], **apt_proxy())
        partial.mkdir()
        packages = sorted(download.glob("var/cache/apt/archives/*.deb"))
        run(
            f"Unpacking {len(packages)} packages",
            [["dpkg-deb", "--extract", str(package), str(partial)] for package in packages]
            # Programs such as su come along, and nobody needs those with root's rights.
            + [["chmod", "--recursive", "u-s,g-s", str(partial)]],
        )
        version = version_shown_by(MySQL.version_command(partial) or ["false"])
        if version is None or not version.startswith(f"{MySQL.version}."):
            raise EngineError(
                f"Debian unstable has MySQL {version or 'that does not run here'}, the tests need "
                f"{MySQL.version}: nothing was installed in {tree}."
            )
        partial.rename(tree)
    finally:
        for leftover in (partial, download):
            shutil.rmtree(leftover, ignore_errors=True)


def debian_mirror() -> str:
    """The mirror that this machine's apt uses for Debian itself: no address is written in this project."""
    codename = os_release().get("VERSION_CODENAME", "")
    filters = ["Created-By: Packages", "Label: Debian", "Component: main", f"Codename: {codename}"]
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *filters]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    if not shown:
        raise EngineError(f"apt knows no mirror of Debian {codename}: add one in /etc/apt.")
    return shown[0]


def apt_proxy() -> dict[str, str]:
    """apt's proxies, which debootstrap takes from the environment only."""
    proxies = {}
    for scheme in ("http", "https"):
        command = ["apt-config", "dump", "--no-empty", "--format", "%v%n", f"Acquire::{scheme}::Proxy"]
        value = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if value and value != "DIRECT":
            proxies[f"{scheme}_proxy"] = value
    return proxies


def run(what: str, commands: list[list[str]], **environment: str) -> None:
    """Run commands quietly, one after the other; an EngineError shows the end of a failed one's output."""
    print(f"{what} …", flush=True)
    began = time.monotonic()
    env = {**os.environ, "PATH": PATH, **environment}
    for command in commands:
        if not shutil.which(command[0], path=PATH):
            raise EngineError(f"{what} failed: the command {command[0]} is not installed.")
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            check=False,
        )
        if done.returncode:
            tail = "\n".join(done.stdout.decode(errors="replace").splitlines()[-20:])
            raise EngineError(f"{what} failed: `{' '.join(command)}` gave status {done.returncode}:\n{tail}")
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; a second process waits here. The kernel frees it on any death."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def services_stay_off() -> Iterator[None]:
    """Keep Debian's packages from starting their servers: policy-rc.d says 101; restored afterwards."""
    policy, saved = POLICY, POLICY.with_name("policy-rc.d.saju_ops")
    ours = "#!/bin/sh\n# Written by saju_ops_tests.engines for the length of one apt-get install.\nexit 101\n"
    # A file of ours is what an earlier, killed installation left: not the machine's own.
    if policy.exists() and policy.read_text(errors="replace") != ours:
        policy.rename(saved)
    policy.write_text(ours)
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()
        if saved.exists():
            saved.rename(policy)


def check() -> int:
    """Print one line per engine; 1 if any is missing."""
    found = {engine: engine.problem() for engine in INSTALLED}
    for engine, problem in found.items():
        print(problem or f"{engine.name} {engine.version}: usable")
    return 1 if any(found.values()) else 0


def main(arguments: list[str]) -> NoReturn:
    match arguments:
        case ["install"]:
            try:
                install()
            except EngineError as error:
                sys.exit(str(error))
            sys.exit(check())
        case ["check"]:
            sys.exit(check())
        case ["supervise", owner, plan]:
            sys.exit(_Supervisor(int(owner), Plan(**json.loads(plan))).run())
        case _:
            sys.exit("usage: python -m saju_ops_tests.engines install | check")


if __name__ == "__main__":
    main(sys.argv[1:])
