"""Problems that last: each is reported once, again after a time, and once more when it is over.

The caller hands in the present problems; the outbox knows those that were reported before. A kind of problem that could
not be looked at this time stays as it was: not being able to look is no all-clear, but a problem of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from saju_ops.alerts.outbox import Outbox
from saju_ops.reports.message import Level, Message, ago, local

REMINDER = timedelta(hours=24)


@dataclass(frozen=True)
class Problem:
    """`key` is `kind:what`. `title` is a line without markup; `lines` are `- label: value`."""

    key: str
    title: str
    lines: tuple[str, ...] = ()
    level: Level = "warning"
    since: datetime | None = None
    link: str = ""
    run_id: str = ""
    # Reported already, as part of another message: only reminders and the all-clear follow.
    reported_elsewhere: bool = False


@dataclass
class Seen:
    """What one look found. `kinds` are those at which it could look; `unknown` are keys that can't be judged now."""

    problems: list[Problem] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


def settle(
    outbox: Outbox, seen: Seen, channels: Sequence[str], now: datetime, *, zone: Any, reminder: timedelta = REMINDER,
    not_through: Mapping[str, str] | None = None,
) -> list[Message]:  # fmt: skip
    """Compares with what was reported, and puts the messages that are due into the outbox. Returns them.

    `not_through` names, by a problem's key, the channel that it is about: it is reported on the others.
    """
    known = outbox.problems()
    current = {p.key: p for p in seen.problems}
    opened: dict[str, dict[str, Any]] = {}
    reminded: list[str] = []
    closed: list[str] = []
    messages: list[Message] = []
    for key, problem in current.items():
        if key not in known:
            opened[key] = _payload(problem)
            if not problem.reported_elsewhere:
                messages.append(_first(problem, now))
        elif abs(now.timestamp() - known[key]["reported"]) >= reminder.total_seconds():
            reminded.append(key)
            messages.append(_reminder(problem, known[key], now, zone))
    for key, before in known.items():
        if key not in current and key not in seen.unknown and key.partition(":")[0] in seen.kinds:
            closed.append(key)
            messages.append(_all_clear(key, before, now, zone))
    if opened or reminded or closed:
        through = {m.id: [c for c in channels if c != (not_through or {}).get(_key(m))] for m in messages}
        outbox.change_problems(opened, reminded, closed, messages, through, now)
    return messages


def _payload(problem: Problem) -> dict[str, Any]:
    return {"title": problem.title, "lines": list(problem.lines), "link": problem.link, "level": problem.level}


def _key(message: Message) -> str:
    """The key of the problem that a message is about; an all-clear is sent on every channel."""
    kind, _, rest = message.id.removeprefix("problem:").partition("|")
    return "" if rest.startswith("over") else kind


def _first(problem: Problem, now: datetime) -> Message:
    at = problem.since or now
    return _message(f"problem:{problem.key}|{now.timestamp():.3f}", problem, _sign(problem.level), "", at)


def _reminder(problem: Problem, before: Mapping[str, Any], now: datetime, zone: Any) -> Message:
    since = datetime.fromtimestamp(before["since"], UTC)
    number = before["reminders"] + 1
    more = f"- 아직 해결되지 않음: {ago(now - since)}째 ({local(since, zone)}부터), {number}번째 다시 알림"
    return _message(f"problem:{problem.key}|{now.timestamp():.3f}", problem, "🔁", more, now)


def _all_clear(key: str, before: Mapping[str, Any], now: datetime, zone: Any) -> Message:
    since = datetime.fromtimestamp(before["since"], UTC)
    text = f"✅ *해결됨: {before['title']}*\n- 지속: {ago(now - since)} ({local(since, zone)}부터)"
    return Message(
        id=f"problem:{key}|over|{now.timestamp():.3f}", text=text, level="ok", happened=now,
        line=f"✅ 해결됨: {before['title']}", link=before.get("link", ""),
    )  # fmt: skip


def _message(id: str, problem: Problem, sign: str, more: str, at: datetime) -> Message:
    text = "\n".join([f"{sign} *{problem.title}*", *problem.lines, *([more] if more else [])])
    return Message(
        id=id, text=text, level=problem.level, happened=at, line=f"{sign} {problem.title}", link=problem.link,
        run_id=problem.run_id,
    )  # fmt: skip


def _sign(level: Level) -> str:
    return "🚨" if level == "error" else "⚠️"
