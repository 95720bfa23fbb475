"""One alert, before any channel gives it a form: a Korean text with `*bold*` and `- ` lines, and where it is from.

The text is plain: no channel's markup but the two above and backticks. Each channel escapes it for itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

Level = Literal["ok", "info", "warning", "error"]
# A message that is delivered later than this says when the thing happened.
LATE = timedelta(minutes=10)


@dataclass(frozen=True)
class Message:
    """`id` never changes for the same event: by it a channel knows what it has sent."""

    id: str
    text: str
    level: Level
    # Instant, UTC, of the thing itself, not of the message.
    happened: datetime
    # One line for a gathering of many and for an e-mail's subject.
    line: str = ""
    job: str = ""
    run_id: str = ""
    link: str = ""
    # A PNG, base64; and its title.
    picture: str = ""
    picture_title: str = ""
    # Names in the backup storage of archive files that may follow the message.
    files: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The first line, without markup."""
        first = (self.line or self.text).strip().splitlines()[0] if (self.line or self.text).strip() else self.id
        return first.replace("*", "").replace("`", "")

    def to_json(self) -> str:
        return storable(json.dumps({**asdict(self), "happened": self.happened.isoformat()}, ensure_ascii=False))

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw: dict[str, Any] = json.loads(text)
        raw["happened"] = datetime.fromisoformat(raw["happened"])
        raw["files"] = tuple(raw["files"])
        return cls(**raw)


def storable(text: str) -> str:
    """The text with `?` for bytes that aren't text: the name of a file from another system may hold some, and they
    would keep every alert from being stored."""
    return text.encode("utf-8", "replace").decode()


def footer(message: Message, now: datetime, zone: ZoneInfo) -> list[str]:
    """The lines under the text: when, how late, which job and run."""
    lines = [f"{local(message.happened, zone)}"]
    if message.job:
        lines.append(message.job)
    if message.run_id:
        lines.append(f"run {message.run_id[:8]}")
    if now - message.happened > LATE:
        lines.append(f"늦은 알림: {local(now, zone)}에 전달 ({ago(now - message.happened)} 전의 일)")
    return lines


def local(instant: datetime, zone: ZoneInfo) -> str:
    there = instant.astimezone(zone)
    return f"{there:%Y-%m-%d %H:%M:%S} {there.tzname() or zone.key}"


def ago(span: timedelta) -> str:
    """A span in Korean, in its one or two largest units."""
    minutes = max(0, int(span.total_seconds() // 60))
    days, hours, rest = minutes // 1440, minutes % 1440 // 60, minutes % 60
    if days:
        return f"{days}일 {hours}시간" if hours else f"{days}일"
    if hours:
        return f"{hours}시간 {rest}분" if rest else f"{hours}시간"
    return f"{rest}분"


def utc_now() -> datetime:
    return datetime.now(UTC)
