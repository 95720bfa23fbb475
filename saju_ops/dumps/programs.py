"""Runs the programs that dump and restore: mysqldump, pg_dump, mysql.

A password reaches a program through a file in memory that only this user can read (memfd, 0600). So it is never in the
process list and never on a disk, and disappears with the process, however it ends. No program reads the machine's own
option files, and each gets only HANDED_ON of the environment: no setting and no secret of saju_ops. A program that
fails raises a sentence with its own message, cut before any value of a row. The output of a program that did not end
with status 0 is never taken for whole.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from saju_ops.dumps.read_ahead import CHUNK, ReadAhead
from saju_ops.errors import OperatorError
from saju_ops.logins import hide_logins

# Seconds that a program has to end after it was asked to.
PATIENCE = 10
_KEPT_STDERR = 4_000
# Variables that a client needs: for the places of programs, libraries and certificates (libpq looks for the latter in
# HOME), a ticket of Kerberos, the time zone, and the place of temporary files. Everything else is passed by us.
HANDED_ON = (
    "PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR", "TZ", "OPENSSL_CONF", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "KRB5_CONFIG", "KRB5CCNAME",
)  # fmt: skip


class ProgramFailed(OperatorError):
    """A dump or restore program failed; `said` is its message, without values."""

    def __init__(self, sentence: str, said: str) -> None:
        super().__init__(sentence)
        self.said = said


class ProgramMissing(OperatorError):
    """No such program is installed."""


def find_program(names: Sequence[str], what: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise ProgramMissing(
        f"{what} needs the program {' or '.join(names)}, and none of them is on PATH. Nothing was done; install the"
        " database's client package."
    )


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program that we start."""
    kept = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    # A login path would be read even where all option files are off.
    return {**kept, "LC_ALL": "C.UTF-8", "MYSQL_TEST_LOGIN_FILE": "/dev/null", **(more or {})}


def asked(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A program's answer to `--version` and the like."""
    return subprocess.run(
        command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        check=False,
    )  # fmt: skip


@contextmanager
def secret_file(text: str) -> Iterator[int]:
    """A file in memory, 0600, as a descriptor that programs open as /dev/fd/<number>."""
    descriptor = os.memfd_create("saju_ops", 0)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, text.encode())
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass
class Program:
    """What to run. `secrets` are descriptors that it may open as /dev/fd/<number>."""

    command: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[int, ...] = ()
    prefix: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return os.path.basename(self.command[0])  # noqa: PTH119

    def start(self, stderr: Any, **pipes: Any) -> subprocess.Popen[bytes]:
        command = [*self.prefix, *self.command]
        return subprocess.Popen(command, env=environment(self.env), pass_fds=self.secrets, stderr=stderr, **pipes)


@functools.cache
def _wide(path: str) -> tuple[str, ...]:
    """A prefix that makes the program write CHUNK at a time, by the C library's own buffer: a pipe's has 4 KB. Empty if
    coreutils' stdbuf is missing, or doesn't work with the program."""
    prefix = ("stdbuf", f"--output={CHUNK}")
    with suppress(OSError):
        tried = asked([*prefix, path, "--version"])
        if tried.returncode == 0 and not tried.stderr:
            return prefix
    return ()


class Output:
    """A running program whose output is read here. Iterate over it, then call `finish`; leaving the block ends the
    program.

    With `wide` the output comes in larger pieces, and therefore later.
    """

    def __init__(self, program: Program, *, wide: bool = False) -> None:
        if wide:
            program = replace(program, prefix=_wide(program.command[0]))
        self._program = program
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._process = program.start(self._stderr, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        _widen(pipe)
        try:
            self._ahead = ReadAhead(pipe)
        except BaseException:
            _end(self._process)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self) -> bytes:
        """What is there, at most CHUNK; nothing at the end."""
        return self._ahead.read()

    def ready(self, seconds: float) -> bool:
        """Whether `read` would return at once, within so many seconds."""
        return self._ahead.ready(seconds)

    def finish(self) -> None:
        """Waits for the end. Raises ProgramFailed unless the status is 0."""
        status = self._process.wait()
        if status:
            raise failed(self._program.name, status, self._stderr)

    def close(self) -> None:
        _end(self._process)
        self._ahead.close()
        if self._process.stdout:
            self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def feed(program: Program, chunks: Iterable[bytes]) -> None:
    """Gives the chunks to a program's standard input. Raises ProgramFailed, or the chunks' own error: the program is
    then killed before it sees an end of input, which it would take for the end of a whole file."""
    with tempfile.TemporaryFile() as stderr:
        process = program.start(stderr, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        _widen(process.stdin.fileno())
        try:
            try:
                for chunk in chunks:
                    process.stdin.write(chunk)
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; its status and its words say why
            except BaseException:
                process.kill()
                raise
            if status := process.wait():
                raise failed(program.name, status, stderr)
        finally:
            _end(process)
            with suppress(BrokenPipeError):
                process.stdin.close()


def failed(name: str, status: int, stderr: Any) -> ProgramFailed:
    stderr.seek(0, os.SEEK_END)
    size = stderr.tell()
    # MariaDB's client writes the failed statement before the reason, and that may be a row of megabytes.
    stderr.seek(max(0, size - _KEPT_STDERR))
    text = stderr.read(_KEPT_STDERR).decode(errors="replace")
    said = words_of(text)
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return ProgramFailed(f"{name} {how} ({said or 'it said nothing'}).", said)


# What the programs say themselves; anything else may be a row.
_SAID = re.compile(r"ERROR \d+|(?:mysql|mariadb|mysqldump|mariadb-dump|pg_dump|psql)\b\S*: ", re.IGNORECASE)
_STATEMENT = re.compile(r"(?ms)^-{14}\n.*?^-{14}$")
# "Duplicate entry 'kim@example.com' for key": a quoted text may be personal, except after these words.
_NAMED = re.compile(
    r"(table|database|role|relation|schema|user|plugin|file|server at|host|column|function|trigger|view|event|extension"
    r"|socket|parameter|command) ?['\"`]([^'\"`]{1,130})['\"`]",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"(?<!\w)(['\"`])(.*?)\1(?!\w)(?:@(['\"`])(.*?)\3)?")
_EXECUTING = re.compile(r"(.*?Couldn't execute )'.*?(': )")
_KEY = re.compile(r" for (?:key|column) (['\"`])[^'\"`]{1,130}\1(?: at row \d+)?$")


# MySQL: SIGNAL's codes and those that no server has; PostgreSQL: errors inside a function, or in a language other than
# SQL.
_CODE = re.compile(r"^ERROR (?:164[234]|\d{5,}) |^CONTEXT:\s+PL/", re.MULTILINE)
_ERROR_HEAD = re.compile(r"ERROR (?:164[234]|\d{5,}) [^:]*:|.*?\bERROR:(?=  )")


def words_of(text: str) -> str:
    """The first lines about an error, without values that a row may have held."""
    lines = [line.strip() for line in _STATEMENT.sub("", text).splitlines() if line.strip()]
    if _CODE.search(text):
        # SIGNAL and RAISE: the words of a trigger or a function, which may quote a row.
        lines = [found[0].rstrip() + " …" if (found := _ERROR_HEAD.match(line)) else line for line in lines]
    messages = [x for x in lines if _SAID.match(x)] or [
        x for x in lines if "error" in x.lower() or "denied" in x.lower()
    ]
    errors = [x for x in messages if "error" in x.lower() or "denied" in x.lower()] or messages or lines
    errors = [x for x in errors if not x.startswith(("DETAIL", "CONTEXT", "LINE", "STATEMENT"))]
    return hide_logins("; ".join(_without_values(line) for line in errors[:2]))[:500]


def _without_values(line: str) -> str:
    if executing := _EXECUTING.match(line):  # mysqldump's own statement, and then the server's message
        return f"{executing[1]}…{executing[2][1:]}{_without_values(line[executing.end() :])}"
    kept, position = [], 0
    for found in _QUOTED.finditer(line):
        kept.append(line[position : found.start()])
        if not _NAMED.search(line, max(0, found.start() - 12), found.end()):
            # A value may hold quotes, so its end can't be found in the value itself.
            key = _KEY.search(line, found.start())
            return "".join(kept) + "…" + (key[0] if key else "")
        kept.append(found[0])
        position = found.end()
    rest = line[position:]
    # A quote that was never closed: the value extends to the line's end.
    open_quote = re.search(r"(?<!\w)['\"]", rest)
    return "".join(kept) + (rest[: open_quote.start()] + "…" if open_quote else rest)


def _widen(pipe: int) -> None:
    with suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CHUNK)


def _end(process: subprocess.Popen[bytes]) -> None:
    """No program of ours outlives its use."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
