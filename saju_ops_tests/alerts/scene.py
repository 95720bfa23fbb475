"""An outbox, a Slack on loopback and messages to send."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from saju_ops.alerts.deliver import Delivery, Report
from saju_ops.alerts.outbox import Outbox
from saju_ops.alerts.redact import Redactor
from saju_ops.alerts.slack import Slack
from saju_ops.reports.message import Message
from saju_ops.settings.load import load_settings
from saju_ops.wiring import slack_client
from saju_ops_tests.fakes.slack import TOKEN, FakeSlack

SEOUL = ZoneInfo("Asia/Seoul")
START = datetime(2026, 11, 2, 0, 0, tzinfo=UTC)


def message(number: int = 1, text: str | None = None, at: datetime | None = None, **more: Any) -> Message:
    text = f"✅ *알림 {number}번*\n- 값: {number}" if text is None else text
    happened = at or START + timedelta(seconds=number)
    return Message(id=f"m{number}", text=text, level="ok", happened=happened, **more)


class Scene:
    """`now` is the clock; it doesn't move until a test moves it."""

    def __init__(self, folder: Path, fake: FakeSlack, channel: str = "ai-reports", token: str = TOKEN) -> None:
        self.now = START + timedelta(minutes=5)
        self.fake = fake
        self.outbox = Outbox(folder / "outbox" / "alerts.sqlite")
        settings = load_settings(SLACK_BOT_TOKEN=token, SLACK_API_URL=fake.url)
        self.slack = Slack(
            slack_client(settings), channel, SEOUL, Redactor([token]), self.outbox.fact, self.outbox.set_fact
        )

    def add(self, *messages: Message, channels: tuple[str, ...] = ("slack",)) -> None:
        self.outbox.add(messages, channels, self.now)

    def deliver(self, *channels: Any, **more: Any) -> list[Report]:
        delivery = Delivery(self.outbox, SEOUL, clock=lambda: self.now, **more)
        return delivery.run(channels or [self.slack])

    def later(self, **span: float) -> None:
        self.now += timedelta(**span)

    def until_delivered(self, *channels: Any, ticks: int = 60) -> None:
        """Looks as the sensor would, every 30 seconds of the clock, till nothing waits."""
        for _ in range(ticks):
            self.deliver(*channels)
            if not self.outbox.waiting_count("slack"):
                return
            self.later(seconds=30)
        raise AssertionError(f"{self.outbox.waiting_count('slack')} messages still wait")
