"""The demo's rows: users, sessions, chats, paid jobs, analysis jobs."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import accumulate
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Table

from saju_ops.demo import texts
from saju_ops.demo.collections import COLLECTIONS
from saju_ops.demo.folder import Progress, Row, Rows
from saju_ops.schema import tables

_SEOUL = ZoneInfo("Asia/Seoul")
_SESSION = timedelta(minutes=30)
# Messages by hour of the day in Seoul: asleep at four, lunch break, and the peak after dinner.
_HOURLY = (30, 18, 10, 6, 4, 5, 9, 16, 26, 30, 32, 36, 48, 40, 34, 33, 35, 40, 52, 66, 84, 98, 92, 60)
_WEEKDAY = (1.0, 0.95, 0.95, 1.0, 1.1, 1.3, 1.4)


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
    order = [t for m in (tables.chatbot, tables.paid_reports, tables.speech_analysis) for t in m.sorted_tables]
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
        "overall_balance": ("excellent", "good", "neutral", "poor", "very_poor")[min(4, counts[ranked[-1]] - 2)],
        "analyzed_at": at + _seconds(rng, 0.05, 0.4),
        "analysis_version": "1.0",
    }


def _user_rows(rng: Random, people: Sequence[_Person], sessions: Sequence[Row]) -> list[Row]:
    """Every visitor, since shortly before the first session; and some people who registered and never came."""
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
    """One job with all its rows. The phone numbers are of a block that is not given out."""
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


def _job_children(rng: Random, job_id: str, phone: str, product: str, at: datetime) -> Iterator[tuple[Table, int, Row]]:
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
    for text in ("[사주] 인증번호를 확인해 주세요.", f"[사주] {product}가 준비되었습니다 📄")[: rng.randrange(1, 3)]:
        sent = {"phone": phone, "message": text, "status": "sent", "sent_at": at + timedelta(seconds=211)}
        yield tables.sms_logs, 210, sent


# How many jobs, their status, their age in hours from and to, and how many of their files are done: none,
# some or all. The middle three are those that a crash leaves behind.
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
