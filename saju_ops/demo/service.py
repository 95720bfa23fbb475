"""A small realistic service to try everything on: three databases in one SQLite file, and a Chroma folder.

Promises: `make_service` fills a folder of its own with `service.db` and `chroma_db/`. The same seed and the
same now give the same rows; the last message was written seconds before now; stored times are naive UTC, the
daily and hourly shape is Seoul's. It builds under a temporary name beside the folder and renames at the end,
so a run that was killed leaves nothing that `open_service` accepts; the next run clears away what it left.

Refuses: a folder that is not empty and does not carry the marker of an earlier run (`DemoFolderError`). A
folder that carries it belongs to the demo as a whole and is replaced. No other folder or database is opened,
no model is loaded, and nothing is fetched: the vectors are made up.
"""

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Table, create_engine
from sqlalchemy.pool import NullPool

from saju_ops.demo import texts
from saju_ops.schema import tables

MARKER = ".saju_ops_demo"
DATABASE = "service.db"
CHROMA = "chroma_db"
EMBEDDING_MODEL = "jhgan/ko-sroberta-multitask"
DIMENSIONS = 768
COLLECTIONS = {"saju_knowledge": 1_200, "interpretation_rules": 400, "fortune_patterns": 300}

Progress = Callable[[str, int, int], None]
Row = dict[str, Any]
Rows = dict[Table, list[Row]]
_T = TypeVar("_T")

_MADE_BY = "saju-ops demo"
_SEOUL = ZoneInfo("Asia/Seoul")
_SESSION = timedelta(minutes=30)
_INSERT_CHUNK = 4_000
_VECTOR_CHUNK = 500
# Messages by hour of the day in Seoul: asleep at four, lunch break, and the peak after dinner.
_HOURLY = (30, 18, 10, 6, 4, 5, 9, 16, 26, 30, 32, 36, 48, 40, 34, 33, 35, 40, 52, 66, 84, 98, 92, 60)
_WEEKDAY = (1.0, 0.95, 0.95, 1.0, 1.1, 1.3, 1.4)


class DemoFolderError(Exception):
    """The folder is not the demo's to use; nothing in it was changed."""


@dataclass(frozen=True)
class DemoService:
    """Where the service lies, and what was put in it when it was made."""

    folder: Path
    seed: int
    made_for: datetime  # the `now` it was made for, with its zone (UTC)
    rows: dict[str, int] = field(default_factory=dict)  # table → rows
    collections: dict[str, int] = field(default_factory=dict)  # collection → records

    @property
    def database(self) -> Path:
        return self.folder / DATABASE

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def chroma(self) -> Path:
        return self.folder / CHROMA


def make_service(
    folder: Path,
    *,
    now: datetime,
    seed: int = 20,
    days: int = 70,
    rows: int = 24_000,
    progress: Progress | None = None,
) -> DemoService:
    """Make the service in `folder`: `rows` messages over the last `days` Seoul days, and what goes with it.

    `now` without a zone is UTC. Replaces a service that an earlier run made there, with everything in its
    folder. `progress` is called with what is being made, how many are done, and of how many. Raises
    DemoFolderError for a folder that is not the demo's, ValueError for fewer than one day or row.
    """
    if days < 1 or rows < 1:
        raise ValueError(f"A demo service needs at least one day and one row, not {days} and {rows}.")
    now = (now if now.tzinfo else now.replace(tzinfo=UTC)).astimezone(UTC)
    report = progress or (lambda stage, done, total: None)
    folder = folder.resolve()
    _refuse_foreign(folder)
    with _building(folder) as building:
        made = _service_rows(now.replace(tzinfo=None), seed, days, rows, report)
        _write_database(building / DATABASE, made, report)
        _write_collections(building / CHROMA, seed, report)
        counts = {table.name: len(made[table]) for table in made}
        _write_marker(building, complete=True, seed=seed, now=now.isoformat(), rows=counts)
        _put_in_place(building, folder)
    return DemoService(folder, seed, now, counts, dict(COLLECTIONS))


def open_service(folder: Path) -> DemoService | None:
    """The service that `make_service` completed in `folder`, or None. Reads the marker; opens no database."""
    folder = folder.resolve()
    marker = _read_marker(folder)
    if not marker.get("complete"):
        return None
    service = DemoService(
        folder, marker["seed"], datetime.fromisoformat(marker["now"]), marker["rows"], dict(COLLECTIONS)
    )
    whole = service.database.is_file() and (service.chroma / "chroma.sqlite3").is_file()
    return service if whole else None


# --- the folder ---------------------------------------------------------------------------------------------


def _read_marker(folder: Path) -> dict[str, Any]:
    """What the marker says, or nothing for a folder without one or with somebody else's file of that name."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) and marker.get("made_by") == _MADE_BY else {}


def _write_marker(folder: Path, **more: Any) -> None:
    note = "Everything in this folder was made by the demo of saju_ops, which may replace or delete it."
    with (folder / MARKER).open("w", encoding="utf-8") as file:
        json.dump({"made_by": _MADE_BY, "note": note, **more}, file, ensure_ascii=False, indent=1)
        file.flush()
        # A marker lost in a power cut would turn our own folder into a foreign one.
        os.fsync(file.fileno())


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() or _read_marker(folder):
        return
    if not folder.is_dir():
        raise DemoFolderError(
            f"{folder} is not a folder. Nothing was changed; give the demo a folder of its own."
        )
    if any(folder.iterdir()):
        raise DemoFolderError(
            f"{folder} is not empty and was not made by the demo (it has no {MARKER} file of its own). "
            "Nothing in it was changed; give the demo a new or an empty folder."
        )


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A marked and locked folder beside `folder` to build in; gone at the end, whatever happened."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    building = folder.parent / f".{folder.name}.saju_ops_demo-{os.getpid()}"
    building.mkdir()
    try:
        _write_marker(building, complete=False)
        # The lock tells a later run that this one is alive. The kernel drops it when a process is killed.
        lock = os.open(building, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield building
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Delete what killed runs for the same folder left: marked by us, and locked by no living process."""
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.saju_ops_demo-*"):
        if leftover.is_symlink() or not _read_marker(leftover):
            continue
        lock = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            raise DemoFolderError(
                f"Another run is making the demo in {folder}. Nothing was changed; wait for it to end."
            ) from None
        finally:
            os.close(lock)


def _put_in_place(building: Path, folder: Path) -> None:
    """Rename the finished service to its name, and delete the one that stood there."""
    _refuse_foreign(folder)
    old = building.with_name(building.name + "-old")
    replaces = bool(_read_marker(folder))
    if replaces:
        folder.rename(old)
    try:
        # Onto an empty folder this replaces it; one that was filled meanwhile makes it fail.
        building.rename(folder)
    except OSError as error:
        if replaces:
            old.rename(folder)
        raise DemoFolderError(
            f"The finished demo could not be put at {folder}: {error}. What stood there was left as it was; "
            "close what uses the folder, or give the demo another one."
        ) from error
    shutil.rmtree(old, ignore_errors=True)


# --- writing ------------------------------------------------------------------------------------------------


def _write_database(path: Path, made: Rows, report: Progress) -> None:
    """All tables and rows in one transaction."""
    engine = create_engine(
        f"sqlite:///{path}", poolclass=NullPool, json_serializer=lambda v: json.dumps(v, ensure_ascii=False)
    )
    total, done = sum(map(len, made.values())), 0
    # AUTOCOMMIT and an explicit BEGIN: the driver would otherwise sync the file after every CREATE.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN")
        for metadata in (tables.chatbot, tables.paid_reports, tables.speech_analysis):
            metadata.create_all(connection, checkfirst=False)
        for table, rows in made.items():
            for chunk in _chunks(rows, _INSERT_CHUNK):
                connection.execute(table.insert(), list(chunk))
                done += len(chunk)
                report("database rows", done, total)
        connection.exec_driver_sql("COMMIT")
    engine.dispose()


def _write_collections(path: Path, seed: int, report: Progress) -> None:
    """The three collections with made-up vectors; no embedding function, so nothing is ever downloaded."""
    report("vectors", 0, sum(COLLECTIONS.values()))  # the import alone takes some two seconds
    import chromadb
    from chromadb.config import Settings

    client: Any = chromadb.PersistentClient(path=str(path), settings=Settings(anonymized_telemetry=False))
    try:
        chunk_size = min(_VECTOR_CHUNK, client.get_max_batch_size())
        total, done = sum(COLLECTIONS.values()), 0
        for name, count in COLLECTIONS.items():
            collection = client.create_collection(
                name,
                embedding_function=None,
                metadata={"hnsw:space": "cosine", "embedding_model": EMBEDDING_MODEL},
            )
            groups, documents, metadatas = _records(name, count, Random(f"{seed}:{name}"))
            vectors = _unit_vectors(groups, seed, name)
            for numbers in _chunks(range(count), chunk_size):
                part = slice(numbers[0], numbers[-1] + 1)
                collection.add(
                    ids=[f"{name}_{number:04d}" for number in numbers],
                    embeddings=vectors[part],
                    documents=documents[part],
                    metadatas=metadatas[part],
                )
                done += len(numbers)
                report("vectors", done, total)
    finally:
        # Without this the files stay open under the temporary name.
        client.close()


def _unit_vectors(groups: Sequence[int], seed: int, name: str) -> Any:
    """One unit vector per record; records of a group lie near each other, as texts on one subject would."""
    import numpy

    digest = sha256(f"{seed}:{name}".encode()).digest()
    generator = numpy.random.default_rng(int.from_bytes(digest[:8], "big"))
    centres = generator.standard_normal((max(groups) + 1, DIMENSIONS))
    vectors = centres[list(groups)] + 0.6 * generator.standard_normal((len(groups), DIMENSIONS))
    return (vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def _records(name: str, count: int, rng: Random) -> tuple[list[int], list[str], list[Any]]:
    """Group number, document and metadata of each record; the metadata fields are those of the SPEC."""
    make = {"saju_knowledge": _knowledge, "interpretation_rules": _rule, "fortune_patterns": _pattern}[name]
    made = [make(rng) for _ in range(count)]
    return [m[0] for m in made], [m[1] for m in made], [m[2] for m in made]


def _knowledge(rng: Random) -> tuple[int, str, Row]:
    element, god, topic = rng.choice(texts.ELEMENTS), rng.choice(texts.TEN_GODS), rng.choice(texts.TOPICS)
    metadata = {
        "category": rng.choice(("오행", "십성", "신살", "대운", "용신")),
        "subcategory": f"{topic}운",
        "element": element,
        "keywords": f"{element},{god},{topic}",
        "source": rng.choice(("적천수", "자평진전", "궁통보감", "연해자평", "내부 자료")),
        "importance": rng.randrange(1, 6),
    }
    return texts.ELEMENTS.index(element), texts.knowledge(rng, element, god, topic), metadata


def _rule(rng: Random) -> tuple[int, str, Row]:
    (god, god2), topic = rng.sample(texts.TEN_GODS, 2), rng.choice(texts.TOPICS)
    metadata = {
        "rule_type": rng.choice(("십성 조합", "합충", "신강신약", "조후")),
        "conditions": json.dumps({"shipsung": [god, god2], "topic": topic}, ensure_ascii=False),
        "confidence": round(rng.uniform(0.5, 0.99), 2),
        "source": rng.choice(("적천수", "자평진전", "상담 사례")),
    }
    return texts.TEN_GODS.index(god), texts.rule(rng, god, god2, topic), metadata


def _pattern(rng: Random) -> tuple[int, str, Row]:
    timing, god, topic = (
        rng.choice(("대운", "세운", "월운")),
        rng.choice(texts.TEN_GODS),
        rng.choice(texts.TOPICS),
    )
    metadata = {
        "pattern_type": f"{topic}운",
        "shipsung_involved": god,
        "timing": timing,
        "strength_condition": rng.choice(("very_weak", "weak", "neutral", "strong", "very_strong")),
        "reliability": round(rng.uniform(0.4, 0.95), 2),
    }
    return texts.TOPICS.index(topic), texts.pattern(rng, timing, god, topic), metadata


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


# --- what is in the tables ----------------------------------------------------------------------------------


def _service_rows(now: datetime, seed: int, days: int, rows: int, report: Progress) -> Rows:
    """All rows of all tables, parents before children. Each part draws from a generator of its own."""
    people = [_person(Random(f"{seed}:person:{number}"), number) for number in range(max(3, rows // 40))]
    chats = _chats(Random(f"{seed}:chats"), people, rows, report)
    starts = _starts(Random(f"{seed}:starts"), now, days, len(chats))
    # The last conversation is still going on: its last message came seconds ago.
    rng = Random(f"{seed}:sessions")
    starts[-1] = now - timedelta(milliseconds=chats[-1].messages[-1]["at"] + rng.randrange(2_000, 40_000))
    made: Rows = {}
    made |= _session_rows(rng, chats, starts)
    made[tables.users] = _user_rows(Random(f"{seed}:users"), people, made[tables.user_sessions])
    made[tables.system_metrics] = _metrics(Random(f"{seed}:metrics"), now, days, made[tables.user_sessions])
    made |= _paid_job_rows(Random(f"{seed}:jobs"), now)
    made |= _analysis_rows(Random(f"{seed}:analysis"), now)
    order = [
        t for m in (tables.chatbot, tables.paid_reports, tables.speech_analysis) for t in m.sorted_tables
    ]
    return {table: made[table] for table in order if table in made}


def _seconds(rng: Random, least: float, most: float) -> timedelta:
    """A random time in whole milliseconds."""
    return timedelta(milliseconds=rng.randrange(round(least * 1000), round(most * 1000) + 1))


def _starts(rng: Random, now: datetime, days: int, count: int) -> list[datetime]:
    """When the sessions begin, in order: by hour and weekday in Seoul, slowly growing, over before now."""
    local_now = now.replace(tzinfo=UTC).astimezone(_SEOUL)
    first = local_now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days - 1)
    mood = [rng.uniform(0.75, 1.25) * (1 + 0.3 * day / days) for day in range(days)]
    slots, weights = [], []
    for hour in range(days * 24):
        slot = first + timedelta(hours=hour)
        if slot < local_now:
            slots.append(slot)
            weights.append(_HOURLY[slot.hour] * _WEEKDAY[slot.weekday()] * mood[hour // 24])
    # One session at some hour of each day first, so that no day is without.
    chosen = [slots[min(day * 24 + rng.randrange(24), len(slots) - 1)] for day in range(days)][:count]
    chosen += rng.choices(slots, cum_weights=list(accumulate(weights)), k=count - len(chosen))
    starts = [slot.astimezone(UTC).replace(tzinfo=None) + _seconds(rng, 0, 3599.999) for slot in chosen]
    latest = now - _SESSION
    return sorted(start if start < latest else latest - _seconds(rng, 0, 7200) for start in starts)


@dataclass(frozen=True)
class _Person:
    """A user with one birth date, as the chatbot knows them."""

    user_id: str
    birth: datetime
    lunar: bool
    pillars: tuple[str, str, str, str]
    city: tuple[str, float, float]


@dataclass(frozen=True)
class _Chat:
    """A conversation without its time: each message has `at`, milliseconds after the session's start."""

    person: _Person
    session_id: str
    messages: list[Row]


def _person(rng: Random, number: int) -> _Person:
    birth = datetime(1955, 1, 1) + timedelta(days=rng.randrange(19_000), minutes=rng.randrange(1440))  # noqa: DTZ001 - wall clock
    return _Person(
        user_id=f"kakao_{rng.randrange(10**9):09d}{number:04d}",
        birth=birth,
        lunar=rng.random() < 0.2,
        pillars=_pillars(birth),
        city=rng.choice(texts.CITIES),
    )


def _ganji(stem: int, branch: int) -> str:
    return texts.STEMS[stem % 10] + texts.BRANCHES[branch % 12]


def _pillars(birth: datetime) -> tuple[str, str, str, str]:
    """Year, month, day and hour pillar; the solar terms are taken to begin on the 6th (Ipchun on the 4th)."""
    year = birth.year - (1 if (birth.month, birth.day) < (2, 4) else 0) - 4
    # Month branches begin with 인 (2) in February; its stem follows from the year's.
    month = (birth.month - 2 - (1 if birth.day < (4 if birth.month == 2 else 6) else 0)) % 12
    day = birth.toordinal() + 14  # 1949-10-01 was a 갑자 day
    hour = (birth.hour + 1) // 2 % 12
    return (
        _ganji(year, year),
        _ganji(year % 5 * 2 + 2 + month, 2 + month),
        _ganji(day, day),
        _ganji(day % 5 * 2 + hour, hour),
    )


_ELEMENT_OF = dict(zip(texts.STEMS, "목목화화토토금금수수", strict=True))
# 신 is both a stem (metal) and a branch (metal).
_ELEMENT_OF |= dict(zip(texts.BRANCHES, "수토목목토화화토금금토수", strict=True))


def _element_counts(pillars: Iterable[str]) -> dict[str, int]:
    letters = "".join(pillars)
    found = [_ELEMENT_OF[letter] for letter in letters]
    return {element: found.count(element) for element in texts.ELEMENTS}


def _chats(rng: Random, people: Sequence[_Person], rows: int, report: Progress) -> list[_Chat]:
    """Conversations with `rows` messages in all; the last is cut where the number is reached."""
    chats: list[_Chat] = []
    written = 0
    while written < rows:
        person = rng.choice(people)
        session_id = str(UUID(int=rng.getrandbits(128), version=4))
        messages = _messages(rng, person)[: rows - written]
        chats.append(_Chat(person, session_id, messages))
        written += len(messages)
        if len(chats) % 500 == 0 or written == rows:
            report("messages", written, rows)
    return chats


def _messages(rng: Random, person: _Person) -> list[Row]:
    """One conversation: the birth date, its calculation, then questions and answers within 30 minutes."""
    topic = rng.choice(texts.TOPICS)
    birth, day_ganji = person.birth, person.pillars[2]
    asked = texts.birth_message(rng, birth.year, birth.month, birth.day, birth.hour, person.lunar)
    messages = [_message(rng, 1_000, "user", asked)]
    arguments = {"birth_datetime": birth.strftime("%Y-%m-%d %H:%M"), "is_lunar": person.lunar}
    messages += _tool_use(rng, messages[-1]["at"], "calculate_saju", arguments, person)
    for turn in range(rng.randrange(2, 8)):
        if turn:
            if rng.random() < 0.2:
                topic = rng.choice(texts.TOPICS)
            pause = rng.randrange(8_000, 120_000)
            messages.append(_message(rng, messages[-1]["at"] + pause, "user", texts.user_message(rng, topic)))
            if rng.random() < 0.25:
                arguments = {"query": f"{topic}운", "top_k": 3}
                messages += _tool_use(rng, messages[-1]["at"], "search_knowledge", arguments, person)
        answer = texts.assistant_message(rng, topic, day_ganji)
        messages.append(_message(rng, messages[-1]["at"], "assistant", answer))
    return messages


def _message(rng: Random, after: int, role: str, content: str, **more: Any) -> Row:
    """A message some time after `after` (ms). Only the model's own carry model, tokens and time."""
    message: Row = {
        "role": role, "content": content, "model_name": None, "tool_calls": None, "tool_call_id": None,
        "tokens_used": None, "response_time_ms": None,
    }  # fmt: skip
    took = rng.randrange(60, 400) if role == "tool" else int(min(15_000, 700 + rng.expovariate(1 / 2200)))
    if role == "assistant":
        message["model_name"] = "gpt-4o-mini" if rng.random() < 0.8 else "gpt-4o"
        # Some answers came without usage figures.
        if rng.random() > 0.03:
            message |= {"tokens_used": 420 + len(content) * 2 + rng.randrange(200), "response_time_ms": took}
    return message | more | {"at": after + took}


def _tool_use(rng: Random, after: int, name: str, arguments: Row, person: _Person) -> list[Row]:
    """The assistant's call, which has no text of its own, and the tool's answer to it."""
    call_id = f"call_{rng.getrandbits(96):024x}"
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    calls = [{"id": call_id, "type": "function", "function": function}]
    call = _message(rng, after, "assistant", "", tool_calls=calls)
    if name == "calculate_saju":
        result = texts.tool_result(rng, person.pillars, _element_counts(person.pillars))
    else:
        result = texts.search_result(rng, arguments["query"].removesuffix("운"))
    return [call, _message(rng, call["at"], "tool", result, tool_call_id=call_id)]


def _session_rows(rng: Random, chats: Sequence[_Chat], starts: Sequence[datetime]) -> Rows:
    """Sessions, their messages in the order they were written, calculations and analyses."""
    sessions: list[Row] = []
    logs: list[Row] = []
    calculations: list[Row] = []
    analyses: list[Row] = []
    for chat, start in zip(chats, starts, strict=True):
        for order, message in enumerate(chat.messages, 1):
            at = start + timedelta(milliseconds=message["at"])
            values = {key: value for key, value in message.items() if key != "at"}
            logs.append({"session_id": chat.session_id, "message_order": order, **values, "created_at": at})
        sessions.append(_session(chat, start, logs[-1]["created_at"]))
        if len(chat.messages) > 2:
            calculated = start + timedelta(milliseconds=chat.messages[2]["at"])
            calculations.append(_calculation(rng, len(calculations) + 1, chat, calculated))
            analyses.append(_analysis(rng, len(calculations), chat.person.pillars, calculated))
    logs.sort(key=lambda log: log["created_at"])
    for log_id, log in enumerate(logs, 1):
        log["log_id"] = log_id
    return {
        tables.user_sessions: sessions,
        tables.conversation_logs: logs,
        tables.saju_calculations: calculations,
        tables.saju_analyses: analyses,
    }


def _session(chat: _Chat, start: datetime, last: datetime) -> Row:
    city, latitude, longitude = chat.person.city
    return {
        "session_id": chat.session_id,
        "user_id": chat.person.user_id,
        "birth_datetime": chat.person.birth,
        "birth_datetime_encrypted": None,
        "is_lunar": chat.person.lunar,
        "is_leap_month": False,
        "timezone": "Asia/Seoul",
        "birth_location": {"city": city, "country": "KR", "lat": latitude, "lng": longitude},
        "created_at": start,
        "updated_at": last,
        "last_activity": last,
        "expires_at": start + _SESSION,
    }


def _calculation(rng: Random, number: int, chat: _Chat, at: datetime) -> Row:
    birth, pillars = chat.person.birth, chat.person.pillars
    # Not a calendar: the lunar date is some weeks behind the solar one, which is all a demo needs.
    lunar = birth - timedelta(days=20 + birth.toordinal() % 30)
    return {
        "calculation_id": number,
        "session_id": chat.session_id,
        "birth_datetime": birth,
        "is_lunar": chat.person.lunar,
        **dict(zip(("year_ganji", "month_ganji", "day_ganji", "time_ganji"), pillars, strict=True)),
        **dict(zip(("lunar_year", "lunar_month", "lunar_day"), lunar.timetuple()[:3], strict=True)),
        "lunar_leap_month": False,
        "season": _SEASONS[birth.month % 12 // 3],
        "jieqi": _TERMS[(birth.month - 1) * 2 + (birth.day > 20)],
        "calculated_at": at,
        "calculation_version": "1.0",
    }


def _analysis(rng: Random, calculation_id: int, pillars: tuple[str, ...], at: datetime) -> Row:
    counts = _element_counts(pillars)
    ranked = sorted(texts.ELEMENTS, key=lambda element: counts[element])
    names = ("wood", "fire", "earth", "metal", "water")
    strength = min(4, counts[_ELEMENT_OF[pillars[2][0]]])
    return {
        "analysis_id": calculation_id,
        "calculation_id": calculation_id,
        "day_gan": pillars[2][0],
        "day_zhi": pillars[2][1],
        **{f"ohang_{name}_count": counts[e] for name, e in zip(names, texts.ELEMENTS, strict=True)},
        "ohang_dominant": ranked[-1],
        "ohang_weakest": ranked[0],
        "shipsung_data": {god: rng.randrange(3) for god in rng.sample(texts.TEN_GODS, 4)},
        "yongshin": ranked[0],
        "gishin": ranked[-1],
        "sinsal_list": rng.sample(texts.SINSAL, rng.randrange(4)),
        "day_gan_strength": ("very_weak", "weak", "neutral", "strong", "very_strong")[strength],
        "overall_balance": ("excellent", "good", "neutral", "poor", "very_poor")[
            min(4, counts[ranked[-1]] - 2)
        ],
        "analyzed_at": at + _seconds(rng, 0.05, 0.4),
        "analysis_version": "1.0",
    }


def _user_rows(rng: Random, people: Sequence[_Person], sessions: Sequence[Row]) -> list[Row]:
    """Everybody who came, since shortly before the first session; and some who registered and never came."""
    first: dict[str, datetime] = {}
    last: dict[str, datetime] = {}
    for session in sessions:
        first.setdefault(session["user_id"], session["created_at"])
        last[session["user_id"]] = session["created_at"]
    oldest = sessions[0]["created_at"]
    rows = []
    for person in people:
        created = first.get(person.user_id, oldest + _seconds(rng, 0, 3600)) - _seconds(rng, 5, 120)
        likes = {"language": "ko", "tone": rng.choice(("친근하게", "정중하게")), "push": rng.random() < 0.6}
        rows.append({
            "user_id": person.user_id,
            "created_at": created,
            "updated_at": last.get(person.user_id, created),
            "last_login": last.get(person.user_id),
            "preferences": likes if rng.random() < 0.8 else None,
        })  # fmt: skip
    return rows


def _metrics(rng: Random, now: datetime, days: int, sessions: Sequence[Row]) -> list[Row]:
    """The number of active sessions every hour, and how long the answer of each session took."""
    minute = now.replace(microsecond=0) - timedelta(minutes=1)
    rows = []
    for hour in range(max(1, days - 1) * 24):
        at = minute - timedelta(hours=hour)
        active = round(_HOURLY[(at.hour + 9) % 24] * rng.uniform(0.3, 0.6))
        rows.append(_metric(at, "active_sessions", "count", active))
    for session in sessions:
        at, took = session["last_activity"], round(rng.uniform(600, 9000), 4)
        rows.append(_metric(at, "response_time", "ms", took, session["session_id"], "/api/chat"))
    return sorted(rows, key=lambda row: row["recorded_at"])


def _metric(
    at: datetime,
    name: str,
    unit: str,
    value: float,
    session_id: str | None = None,
    endpoint: str | None = None,
) -> Row:
    return {
        "metric_name": name,
        "metric_value": value,
        "metric_unit": unit,
        "session_id": session_id,
        "endpoint": endpoint,
        "recorded_at": at,
    }


# --- paid reports and speech analysis -----------------------------------------------------------------------

_SEASONS = ("겨울", "봄", "여름", "가을")
_TERMS = (
    "소한", "대한", "입춘", "우수", "경칩", "춘분", "청명", "곡우", "입하", "소만", "망종", "하지",
    "소서", "대서", "입추", "처서", "백로", "추분", "한로", "상강", "입동", "소설", "대설", "동지",
)  # fmt: skip
_PRODUCTS = {"평생 사주 리포트": 29_000, "신년 운세 리포트": 19_000, "궁합 리포트": 24_000}
_FILES = (
    ("original", "original.jpg", "image/jpeg"), ("report", "report.pdf", "application/pdf"),
    ("summary_image", "summary.png", "image/png"), ("audio", "reading.mp3", "audio/mpeg"),
)  # fmt: skip


def _paid_job_rows(rng: Random, now: datetime) -> Rows:
    """100 jobs, each alive for 24 hours: 60 that the hourly purge should have taken, and 40 of today."""
    made: Rows = {table: [] for table in tables.paid_reports.sorted_tables}
    ages = [_seconds(rng, 24.5 * 3600, 9 * 86_400) for _ in range(60)]
    ages += [_seconds(rng, 600, 23.5 * 3600) for _ in range(40)]
    for age in sorted(ages, reverse=True):
        _paid_job(rng, made, now - age)
    for table, rows in made.items():
        if table is not tables.jobs:
            for number, row in enumerate(rows, 1):
                row["id"] = number
    return made


def _paid_job(rng: Random, made: Rows, at: datetime) -> None:
    """One job and all that hangs on it. The phone numbers are of a block that is not given out."""
    job_id = str(UUID(int=rng.getrandbits(128), version=4))
    phone, product = f"010-0000-{rng.randrange(10_000):04d}", rng.choice(list(_PRODUCTS))
    job = {"id": job_id, "phone": phone, "product": product, "status": "completed", "created_at": at}
    made[tables.jobs].append(job | {"expires_at": at + timedelta(hours=24)})
    for table, after, values in _job_children(rng, job_id, phone, product, at):
        made[table].append({"job_id": job_id, **values, "created_at": at + timedelta(seconds=after)})
    report_id = len(made[tables.reports])
    for number in rng.sample(range(COLLECTIONS["saju_knowledge"]), rng.randrange(2, 6)):
        made[tables.report_knowledge].append({
            "report_id": report_id,
            "knowledge_id": f"saju_knowledge_{number:04d}",
            "relevance": round(rng.uniform(0.5, 0.95), 4),
            "created_at": at + timedelta(seconds=200),
        })  # fmt: skip


def _job_children(
    rng: Random, job_id: str, phone: str, product: str, at: datetime
) -> Iterator[tuple[Table, int, Row]]:
    """Table, seconds after the job's creation, and columns of each child row."""
    for attempt in range(tries := rng.randrange(1, 4)):
        code = sha256(f"{rng.randrange(10**6):06d}".encode()).hexdigest()
        tried = {"phone": phone, "code_hash": code, "succeeded": attempt == tries - 1}
        yield tables.phone_verification_attempts, 20 * attempt, tried
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        failure = {"error_code": "PAY_CANCELED", "error_message": "사용자가 결제를 취소했습니다"}
        yield tables.payment_failures, 80, failure
    method = rng.choice(("카드", "카카오페이", "네이버페이"))
    paid = {"order_id": f"order_{job_id}", "amount": _PRODUCTS[product], "currency": "KRW", "method": method}
    yield tables.payments, 100, paid | {"status": "paid", "paid_at": at + timedelta(seconds=100)}
    for kind, name, content_type in _FILES:
        file = {"kind": kind, "s3_key": f"jobs/{job_id}/{name}", "content_type": content_type}
        yield tables.job_files, 110, file | {"size_bytes": rng.randrange(40_000, 4_000_000)}
    topic, index = rng.choice(texts.TOPICS), rng.randrange(60)
    day_ganji = _ganji(index, index)
    content = "\n\n".join(texts.assistant_message(rng, topic, day_ganji) for _ in range(3))
    yield tables.reports, 200, {"title": f"{day_ganji} 일주의 {product}", "content": content}
    for text in ("[사주] 인증번호를 확인해 주세요.", f"[사주] {product}가 준비되었습니다 📄")[
        : rng.randrange(1, 3)
    ]:
        sent = {"phone": phone, "message": text, "status": "sent", "sent_at": at + timedelta(seconds=211)}
        yield tables.sms_logs, 210, sent


# How many jobs, their status, their age in hours from and to, and how many of their files are done: none,
# some or all. The middle three are what a crash leaves behind.
_ANALYSIS_JOBS = (
    (24, "completed", 30, 1_400, "all"),
    (6, "pending", 26, 500, "none"),
    (6, "processing", 26, 500, "some"),
    (4, "processing", 26, 500, "all"),
    (2, "processing", 0.1, 3, "some"),
    (3, "pending", 0.1, 2, "none"),
)


def _analysis_rows(rng: Random, now: datetime) -> Rows:
    jobs: list[Row] = []
    results: list[Row] = []
    for count, status, youngest, oldest, done in _ANALYSIS_JOBS:
        for _ in range(count):
            at = now - _seconds(rng, youngest * 3600, oldest * 3600)
            job_id, emp_id = f"job_{rng.getrandbits(48):012x}", f"E{rng.randrange(1000, 9999)}"
            folder = f"recordings/{at:%Y/%m/%d}/{emp_id}"
            jobs.append(
                {
                    "job_id": job_id,
                    "emp_id": emp_id,
                    "folder_path": folder,
                    "status": status,
                    "created_at": at,
                }
            )
            files = rng.randrange(3, 8)
            finished = {"all": files, "some": rng.randrange(1, files), "none": 0}[done]
            results += [_analysis_result(rng, job_id, number, number < finished) for number in range(files)]
    jobs.sort(key=lambda job: job["created_at"])
    return {tables.analysis_jobs: jobs, tables.analysis_results: results}


def _analysis_result(rng: Random, job_id: str, number: int, done: bool) -> Row:
    topic = rng.choice(texts.TOPICS)
    spoken = " ".join(texts.user_message(rng, topic) for _ in range(4))
    found = [{"type": "확정적 표현", "text": "반드시 옵니다", "score": round(rng.uniform(0.5, 1), 3)}]
    return {
        "job_id": job_id,
        "file_id": f"call_{number + 1:03d}.wav",
        "status": "completed" if done else rng.choice(("pending", "processing")),
        "stt_text": spoken if done else None,
        "improper_detection_results": (found if rng.random() < 0.3 else []) if done else None,
    }
