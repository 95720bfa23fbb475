"""What the fault tests need: work in processes that can be killed, a live writer, and an independent truth.

Each job runs in a process of its own, forked from a server that has imported everything already, so that a
kill costs milliseconds. What the storage and the table hold is read here without the project's own code: a
few lines of csv and hashlib that the manifests and digests must agree with.
"""

from __future__ import annotations

import csv
import ctypes
import gzip
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from saju_ops.archive.day import archive_day
from saju_ops.archive.purge import purge
from saju_ops.archive.purge_plan import PurgePlan
from saju_ops.archive.restore import restore
from saju_ops.errors import OperatorError
from saju_ops.rows.days import Day
from saju_ops.rows.engines.mysql import pieces as mysql_pieces
from saju_ops.rows.engines.open import RowStore, open_log_store
from saju_ops.storage.open import open_storage

KST = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 20, tzinfo=UTC)
# Two days beyond the retention of 30 days, and one that is over but stays.
OLD_DAYS = tuple(Day(date(2026, 10, d), KST) for d in (1, 2))
RECENT_DAY = Day(date(2026, 11, 10), KST)
DAYS = (*OLD_DAYS, RECENT_DAY)
ROWS_A_DAY = 400
TABLE = "conversation_logs"
SEED = "seed_rows"
COLUMNS = ("log_id", "session_id", "role", "content", "tokens", "created_at")
TEXTS: tuple[str | None, ...] = (None, "", '"', 'a "quoted" word, 쉼표', "두\n줄\r\n", "🙂 사주", ",", "N", "x" * 300)

# A row as the text of its cells, None for NULL; rows by key. A row that is gone, by its owner's will, is None.
Row = tuple[str | None, ...]
Truth = dict[str, Row]


# --- the table --------------------------------------------------------------------------------------------


def log_table(name: str = TABLE) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("log_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("session_id", sa.String(255)),
        sa.Column("role", sa.String(10)),
        sa.Column("content", sa.Text),
        sa.Column("tokens", sa.Integer),
        sa.Column("created_at", sa.TIMESTAMP, nullable=False, index=True),
    )


LOGS = log_table()


@cache
def engine(url: str, isolation_level: Literal["AUTOCOMMIT"] | None = None) -> sa.Engine:
    """Kept for its compiled statements, not for its connections. It waits for SQLite's lock like a service."""
    # PyMySQL reads all of the machine's certificates for each connection: 20 ms, several times a kill.
    args = {"sqlite": {"timeout": 30}, "mysql": {"ssl_disabled": True}}.get(sa.make_url(url).get_backend_name(), {})
    options = {"isolation_level": isolation_level} if isolation_level else {}
    return sa.create_engine(url, poolclass=NullPool, connect_args=args, **options)


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """A connection that commits each statement at once."""
    with engine(url, "AUTOCOMMIT").connect() as connection:
        yield connection


def some_row(key: int, at: datetime, dice: random.Random, width: int = 0) -> dict[str, Any]:
    content = dice.choice(TEXTS) if not width else dice.randbytes(width // 2).hex()
    role = dice.choice(("user", "assistant"))
    tokens = dice.choice((None, 0, 7, 4_096))
    return dict(zip(COLUMNS, (key, f"s{key}", role, content, tokens, at.replace(tzinfo=None)), strict=True))


def as_row(values: Iterable[Any]) -> Row:
    cells = [None if v is None else str(v) for v in values]
    assert cells[-1] is not None
    # The engines write fractions and zones of a time each in their own way; there are none here.
    return (*cells[:-1], cells[-1][:19])


def create(url: str) -> None:
    """SQLite's database is a file, which sqlite3 makes; WAL is how a service with several threads runs it."""
    if url.startswith("sqlite"):
        with connected(url) as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")


def fill(
    url: str, days: Iterable[Day] = DAYS, rows_a_day: int = ROWS_A_DAY, width: int = 0, first_key: int = 1
) -> Truth:
    """Makes the table with rows spread evenly over the days, and says what is in it."""
    dice = random.Random(5)
    spread = timedelta(days=1) / rows_a_day
    times = [day.start + spread * i for day in days for i in range(rows_a_day)]
    rows = [some_row(i, at.replace(microsecond=0), dice, width) for i, at in enumerate(times, first_key)]
    create(url)
    with engine(url).begin() as connection:
        LOGS.metadata.create_all(connection)
        if rows:
            connection.execute(LOGS.insert(), rows)
    return {str(r["log_id"]): as_row(r.values()) for r in rows}


def keep_seed(url: str) -> None:
    """A copy of the rows, from which `refill` puts back what was purged."""
    seed = log_table(SEED)
    with connected(url) as connection:
        seed.metadata.create_all(connection)
        connection.execute(seed.insert().from_select(COLUMNS, sa.select(LOGS)))


def refill(url: str) -> None:
    seed = log_table(SEED)
    missing = sa.select(seed).where(~sa.exists().where(LOGS.c.log_id == seed.c.log_id))
    with connected(url) as connection:
        connection.execute(LOGS.insert().from_select(COLUMNS, missing))


def table_rows(url: str) -> Truth:
    with connected(url) as connection:
        return {str(row[0]): as_row(row) for row in connection.execute(sa.select(LOGS))}


# --- the storage, read without the project's code ---------------------------------------------------------


@dataclass
class Archive:
    # For every key the row in the latest part of its day, and every row of every part.
    latest: Truth = field(default_factory=dict)
    rows: set[Row] = field(default_factory=set)
    days: set[str] = field(default_factory=set)
    parts: int = 0
    # Data files with a final name and without a manifest; temporary files.
    strays: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


CELL = re.compile(r'("(?:[^"]|"")*"|[^",\n]*)([,\n])')


def parse(content: bytes) -> list[Row]:
    """All records of an archive's CSV. The csv module reads it; a regular expression distinguishes NULL from ''."""
    text = content.decode("utf-8-sig")
    assert content.startswith(b"\xef\xbb\xbf")
    assert text.endswith("\n")
    records: list[Row] = []
    cells: list[str | None] = []
    end = 0
    for match in CELL.finditer(text):
        assert match.start() == end, f"malformed at {end}"
        end = match.end()
        cell = match[1]
        cells.append(cell[1:-1].replace('""', '"') if cell else None)
        if match[2] == "\n":
            records.append(tuple(cells))
            cells = []
    assert end == len(text)
    assert [[c or "" for c in r] for r in records] == list(csv.reader(io.StringIO(text, newline="")))
    return records


def row_hash(row: Row, columns: list[dict[str, Any]]) -> int:
    pieces: list[str] = []
    for cell, column in zip(row, columns, strict=True):
        if cell is None:
            pieces.append("N")
        else:
            pieces += [str(len(cell.encode())), cell] if column["framed"] else [cell]
    return int.from_bytes(hashlib.sha256("\x1f".join(pieces).encode()).digest()[:8], "big")


def require_pieces(rows: list[Row], manifest: dict[str, Any]) -> None:
    rest, lines = rows, ""
    for piece in manifest["pieces"]:
        mine, rest = rest[: piece["rows"]], rest[piece["rows"] :]
        assert (piece["first_key"], piece["last_key"]) == ([mine[0][0]], [mine[-1][0]])
        cells = [[b"\xff" if cell is None else cell.encode() for cell in row] for row in mine]
        text = b"".join(b"\xfe".join(row) + b"\xfd" for row in cells)
        assert hashlib.sha256(text).hexdigest() == piece["sha256"]
        lines += f"{len(mine)} {piece['sha256']}\n"
    assert rest == []
    assert hashlib.sha256(lines.encode()).hexdigest() == manifest["digest"]


def read_part(manifest_path: Path) -> tuple[dict[str, Any], list[Row]]:
    """One part, proven: the stored bytes, the content, the digest, the keys and the window agree with the manifest."""
    manifest = json.loads(manifest_path.read_text())
    stored = (manifest_path.parent / Path(manifest["file"]).name).read_bytes()
    assert (len(stored), hashlib.sha256(stored).hexdigest()) == (manifest["stored_bytes"], manifest["stored_sha256"])
    content = gzip.decompress(stored) if manifest["compression"] == "gzip" else stored
    assert (len(content), hashlib.sha256(content).hexdigest()) == (
        manifest["content_bytes"],
        manifest["content_sha256"],
    )
    head, *rows = parse(content)
    assert list(head) == [c["name"] for c in manifest["columns"]] == list(COLUMNS)
    assert len(rows) == manifest["rows"]
    if manifest["digest_algorithm"] == "sha256-pieces-v1":
        require_pieces(rows, manifest)
    else:
        digest = 0
        for row in rows:
            digest ^= row_hash(row, manifest["columns"])
        assert f"{digest:016x}" == manifest["digest"]
    assert len({row[0] for row in rows}) == len(rows), "a key is twice in one part"
    assert rows, "a part without rows"
    keys = [row[0] for row in rows]
    assert (manifest["first_key"], manifest["last_key"]) == ([keys[0]], [keys[-1]])
    day = Day(date.fromisoformat(manifest["day"]), KST)
    times = [datetime.fromisoformat(str(row[-1])[:19]).replace(tzinfo=UTC) for row in rows]
    assert day.start <= min(times) <= max(times) < day.end
    return manifest, [as_row(row) for row in rows]


def read_archive(folder: Path) -> Archive:
    """Everything in the storage; fails where something with a manifest isn't whole."""
    found = Archive()
    parts = [read_part(path) for path in folder.rglob("*.manifest.json") if not path.name.startswith(".")]
    for manifest, rows in sorted(parts, key=lambda p: (p[0]["day"], p[0]["part"])):
        found.latest.update({str(row[0]): row for row in rows})
        found.rows.update(rows)
        found.days.add(manifest["day"])
    found.parts = len(parts)
    described = {Path(manifest["file"]).name for manifest, _ in parts}
    for path in (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".manifest.json")):
        if path.name.endswith(".unfinished"):
            found.unfinished.append(path.name)
        elif path.name not in described:
            found.strays.append(path.name)
    return found


def require_all_held(url: str, folder: Path, truth: Truth, history: set[Row] | None = None) -> Archive:
    """Table and archive together hold every row as it is, and nothing that never was."""
    archive, table = read_archive(folder), table_rows(url)
    assert not {k for k, row in table.items() if truth.get(k) != row}, "rows in the table that are not true"
    lost = {k for k, row in truth.items() if k not in table and archive.latest.get(k) != row}
    assert not lost, f"{len(lost)} rows are neither in the table nor the latest in the archive: {sorted(lost)[:5]}"
    invented = archive.rows - (history if history is not None else set(truth.values()))
    assert not invented, f"{len(invented)} rows of the archive never were: {sorted(map(str, invented))[:3]}"
    return archive


# --- a job in a process of its own ------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """An instruction of the project's code, at which the process dies or waits for permission to continue."""

    module: str
    attribute: str
    when: Literal["before", "after"]
    # Which call of it.
    nth: int = 1
    action: Literal["die", "hold"] = "die"

    def __str__(self) -> str:
        return f"{self.when} {self.attribute} {self.nth}"


@dataclass(frozen=True)
class Job:
    what: Literal["archive", "purge", "restore"]
    url: str
    folder: str
    days: tuple[Day, ...] = DAYS
    chunk_size: int = 200
    pause: float = 0.0
    wait: float = 10.0
    compression: Literal["none", "gzip"] = "none"
    point: Point | None = None
    # The largest file that the process may write: a full disk for who can't mount one.
    file_limit: int | None = None


@dataclass
class Answer:
    # Per day the outcome of an archive; for a purge what became of it.
    outcomes: list[str] = field(default_factory=list)
    deleted: int = 0
    written: int = 0
    problems: list[str] = field(default_factory=list)
    # The operator's sentence; any other error is named by its type and is a bug.
    refused: str = ""
    error: str = ""
    seconds: float = 0.0


def perform(job: Job) -> Answer:
    """The work itself, in this process."""
    storage, answer = open_storage(job.folder), Answer()
    if job.what == "restore":
        done = restore(storage, job.url, DAYS[0], DAYS[-1], zone_of_database=UTC_ZONE, dry_run=False)
        answer.written = done.written
        return answer
    with open_log_store(job.url, TABLE, UTC_ZONE) as store:
        if job.what == "archive":
            for day in job.days:
                result = archive_day(store, storage, day, now=NOW, compression=job.compression, wait=job.wait)
                answer.outcomes.append(result.outcome)
                answer.written += result.rows_written
        else:
            plan = PurgePlan(30, dry_run=False, chunk_size=job.chunk_size, pause_seconds=job.pause)
            purged = purge(store, storage, plan, now=NOW, first_day=DAYS[0], wait=job.wait)
            answer.outcomes, answer.deleted, answer.problems = [purged.stopped], purged.deleted, purged.problems
    return answer


UTC_ZONE = ZoneInfo("UTC")


def safely(job: Job) -> Answer:
    """What an operator would see."""
    started = time.monotonic()
    try:
        answer = perform(job)
    except OperatorError as error:
        answer = Answer(refused=f"{type(error).__name__}: {error}")
    except BaseException as error:
        answer = Answer(error=f"{type(error).__module__}.{type(error).__name__}: {error}")
    answer.seconds = time.monotonic() - started
    return answer


def _die(_pipe: Connection) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hold(pipe: Connection) -> None:
    pipe.send("held")
    pipe.recv()


def _plant(point: Point, pipe: Connection) -> None:
    """Replaces the function at the point by one that dies or waits there."""
    owner: Any = importlib.import_module(point.module)
    *path, name = point.attribute.split(".")
    for step in path:
        owner = getattr(owner, step)
    original: Callable[..., Any] = getattr(owner, name)
    act, calls = {"die": _die, "hold": _hold}[point.action], iter(range(1, 1 << 30))

    def planted(*args: Any, **kwargs: Any) -> Any:
        mine = next(calls) == point.nth
        if mine and point.when == "before":
            act(pipe)
        value = original(*args, **kwargs)
        if mine and point.when == "after":
            act(pipe)
        return value

    setattr(owner, name, planted)


def _die_with_the_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def temporary_folder(job: Job) -> Path:
    """Where the job's process makes its temporary files."""
    return Path(f"{job.folder}.tmp")


def _child(job: Job, pipe: Connection) -> None:
    _die_with_the_parent()
    temporary_folder(job).mkdir(exist_ok=True)
    tempfile.tempdir = str(temporary_folder(job))
    # The tests' days are small; a service's are made of many pieces.
    mysql_pieces.FIRST_ROWS = 5
    if job.point:
        _plant(job.point, pipe)
    if job.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.file_limit, job.file_limit))
    pipe.send("started")
    pipe.send(safely(job))


PRELOAD = [
    # pandas, since pyarrow imports it at the first conversion of a list.
    *("numpy", "pandas", "psycopg", "pymysql", "pymysql._auth", "pyarrow.compute", "pyarrow.csv"),
    *("isal.isal_zlib", "isal.igzip", "pytest", "saju_ops.archive.purge", "saju_ops.archive.restore"),
    *(f"saju_ops.rows.engines.{name}" for name in ("mysql.store", "postgres", "sqlite")),
    *("sqlalchemy.dialects.mysql.pymysql", "sqlalchemy.dialects.sqlite.pysqlite"),
    "sqlalchemy.dialects.postgresql.psycopg",
]
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(PRELOAD)


class Process:
    """A job on its way. `with` leaves no process behind."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=target, args=(*args, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert self.receive() == "started"

    def receive(self, seconds: float = 60) -> Any:
        assert self.pipe.poll(seconds), "the process gave no answer"
        return self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(30)
        self.pipe.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def start(job: Job) -> Process:
    return Process(_child, job)


def run(job: Job) -> Answer:
    """The job to its end, in a process of its own."""
    with start(job) as process:
        answer = process.receive()
    assert isinstance(answer, Answer)
    assert not answer.error, answer.error
    return answer


def kill_after(job: Job, seconds: float) -> bool:
    """SIGKILL after so many seconds; whether that came before the end."""
    with start(job) as process:
        return not process.pipe.poll(seconds)


def dies_at(job: Job) -> bool:
    """Runs the job to its point, where it kills itself; False if it never came there."""
    with start(job) as process:
        try:
            answer = process.receive()
        except EOFError:
            return True
    assert not answer.error, answer.error
    return False


def together(jobs: Iterable[Job]) -> list[Answer]:
    """All jobs at once, each to its end."""
    with ExitStack() as stack:
        processes = [stack.enter_context(start(job)) for job in jobs]
        answers: list[Answer] = [process.receive() for process in processes]
    for answer in answers:
        assert not answer.error, answer.error
        assert not answer.refused, answer.refused
    return answers


def _take_turns(url: str, counter: Path, turns: int, pipe: Connection) -> None:
    _die_with_the_parent()
    pipe.send("started")
    with opened(url) as store:
        for _ in range(turns):
            with store.lock("purge", 60.0):
                value = int(counter.read_text())
                time.sleep(0.002)
                counter.write_text(str(value + 1))
    pipe.send("done")


def take_turns(url: str, counter: Path, turns: int) -> Process:
    """Adds to a number in a file under a lock, which fails as soon as two do it at once."""
    return Process(_take_turns, url, counter, turns)


# --- a service that continues ----------------------------------------------------------------------------


class _Thread(threading.Thread):
    """Inserts late rows, changes and deletes rows; owns every key that leaves `number` when divided."""

    def __init__(self, url: str, number: int, of: int, truth: Truth, pause: float) -> None:
        super().__init__(daemon=True)
        self.url, self.pause = url, pause
        self.dice = random.Random(number)
        self.truth = {k: row for k, row in truth.items() if int(k) % of == number}
        self.new_keys = iter(range(1_000_000 + number, 1 << 40, of))
        self.history: set[Row] = set()
        self.turn = threading.Lock()
        self.ended = threading.Event()
        self.statements, self.slowest, self.errors = 0, 0.0, list[str]()

    def run(self) -> None:
        with connected(self.url) as connection:
            while not self.ended.is_set():
                with self.turn:
                    self._timed(partial(self._step, connection))
                time.sleep(self.pause)

    def _timed(self, step: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            step()
        except Exception as error:
            self.errors.append(f"{type(error).__name__}: {error}"[:300])
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.statements += 1

    def _step(self, connection: sa.Connection) -> None:
        kind = self.dice.choices(("insert", "update", "delete"), (4, 5, 1))[0]
        if kind == "insert" or not self.truth:
            day = self.dice.choice(OLD_DAYS)
            row = some_row(next(self.new_keys), day.start + timedelta(seconds=self.dice.randrange(86_400)), self.dice)
            # Noted before it is sent: the archive may see it sooner than this thread hears of it.
            self.history.add(as_row(row.values()))
            connection.execute(LOGS.insert(), row)
            self.truth[str(row["log_id"])] = as_row(row.values())
            return
        key = self.dice.choice(list(self.truth))
        if kind == "delete":
            if connection.execute(LOGS.delete().where(LOGS.c.log_id == int(key))).rowcount:
                del self.truth[key]
            return
        old = self.truth[key]
        tokens = self.dice.randrange(1 << 30)
        new = (*old[:4], str(tokens), old[5])
        self.history.add(new)
        # No row means that it was purged: then the archive must have it as it was.
        if connection.execute(LOGS.update().where(LOGS.c.log_id == int(key)).values(tokens=tokens)).rowcount:
            self.truth[key] = new


@dataclass
class Written:
    """What a writer knows at a moment at which none of its statements is on its way."""

    truth: Truth
    history: set[Row]
    statements: int
    slowest: float
    errors: list[str]


def _written(threads: list[_Thread]) -> Written:
    return Written(
        {k: row for t in threads for k, row in t.truth.items()},
        {row for t in threads for row in t.history},
        sum(t.statements for t in threads),
        max(t.slowest for t in threads),
        [e for t in threads for e in t.errors],
    )


def _write(url: str, threads: int, truth: Truth, pause: float, pipe: Connection) -> None:
    _die_with_the_parent()
    all_threads = [_Thread(url, n, threads, truth, pause) for n in range(threads)]
    for thread in all_threads:
        thread.start()
    pipe.send("started")
    while pipe.recv() == "report":
        for thread in all_threads:
            thread.turn.acquire()
        pipe.send(_written(all_threads))
        assert pipe.recv() == "go on"
        for thread in all_threads:
            thread.turn.release()
    for thread in all_threads:
        thread.ended.set()
    for thread in all_threads:
        thread.join()
    pipe.send(_written(all_threads))


class LiveWriter:
    """The service's own statements, in a process with several threads, each with a connection."""

    def __init__(self, url: str, truth: Truth, threads: int = 4, pause: float = 0.002) -> None:
        self.before = set(truth.values())
        self.process = Process(_write, url, threads, truth, pause)

    @contextmanager
    def paused(self) -> Iterator[Written]:
        self.process.pipe.send("report")
        yield self._receive()
        self.process.pipe.send("go on")

    def stop(self) -> Written:
        self.process.pipe.send("stop")
        return self._receive()

    def _receive(self) -> Written:
        written: Written = self.process.receive()
        written.history |= self.before
        assert not written.errors, written.errors[:3]
        return written

    def __enter__(self) -> LiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()


# --- locks ------------------------------------------------------------------------------------------------


def lock_names() -> list[str]:
    return ["purge", *(f"day {day}" for day in DAYS)]


def require_no_lock(url: str) -> None:
    """Nobody holds a lock of a run any more: a killed run's die with its connection, within moments."""
    with open_log_store(url, TABLE, UTC_ZONE) as store:
        for name in lock_names():
            with store.lock(name, 5.0):
                pass


def opened(url: str) -> RowStore:
    return open_log_store(url, TABLE, UTC_ZONE)
