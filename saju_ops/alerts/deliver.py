"""Sends the messages of the outbox to the channels, each channel by itself, within a set time.

A message arrives at least once per channel; each mark is durable before the next message is sent. A message that is
refused, or a channel that is down, holds up no other. More than 20 waiting messages are gathered into one (or as many
as Slack's limits need), in which each is named. A failing channel never raises an error: the report says how it went.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from zoneinfo import ZoneInfo

from saju_ops.alerts.blocks import escaped
from saju_ops.alerts.channels import Channel, ChannelFailed, MessageRefused
from saju_ops.alerts.outbox import LONGEST_WAIT, Health, Outbox, Waiting, WaitingFile
from saju_ops.reports.message import Message, local, utc_now

# More than so many at once are one message: nobody reads two hundred.
GATHER_FROM = 20
# Characters of a gathering's lines, escaped: within Slack's 40,000 of a message, and two hundred runs in one.
GATHERED_CHARACTERS = 34_000
LINE = 110
# Seconds for one delivery; messages that are left then wait for the next.
BUDGET = 35.0
# A channel that failed is tried again after this, doubled each time, up to the second.
FIRST_PAUSE, LONGEST_PAUSE = 20.0, 600.0
# A single message that was refused.
FIRST_RETRY, LONGEST_RETRY = 60.0, 3600.0
# Refusals of different messages in a row, after which it is rather the channel.
REFUSALS = 5
# Failures that might be one message's doing: so many before a message is blamed, and before a gathering is doubted.
BLAME_AFTER, PROBE_AFTER = 2, 4
log = logging.getLogger(__name__)


@dataclass
class Report:
    """How a delivery went on one channel."""

    channel: str
    delivered: int = 0
    refused: int = 0
    busy: bool = False
    error: str = ""
    health: Health | None = None
    left: int = 0


@dataclass(frozen=True)
class FileContent:
    """The attachment of a message: a file, or a line in its place, or nothing at all."""

    title: str = ""
    filename: str = ""
    content: bytes = b""
    instead: str = ""


@dataclass
class Delivery:
    """One look at the outbox. `files` says which files follow a message on the channel (their numbers), and
    `open_file` gives one of them."""

    outbox: Outbox
    zone: ZoneInfo
    files: Callable[[str, Message], Sequence[int]] = lambda _channel, _message: ()
    open_file: Callable[[WaitingFile], FileContent] = lambda _: FileContent()
    clock: Callable[[], datetime] = utc_now
    budget: float = BUDGET
    _started: float = field(default_factory=time.monotonic)

    def run(self, channels: Sequence[Channel]) -> list[Report]:
        """All channels at the same time; returns when all are done or the time is up, whichever is first."""
        self._started = time.monotonic()
        reports = [Report(c.name) for c in channels]
        threads = [
            threading.Thread(target=self._guarded, args=(c, r), daemon=True, name=f"alerts-{c.name}")
            for c, r in zip(channels, reports, strict=True)
        ]
        for thread in threads:
            thread.start()
        # A request that hangs has its own time-out; a server that drips can outlast it and is left behind.
        end = self._started + self.budget + 15.0
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        for thread, report in zip(threads, reports, strict=True):
            if thread.is_alive():
                report.error = report.error or "아직 응답을 기다리는 중입니다 (still waiting for an answer)."
            report.health = self.outbox.health(report.channel)
            report.left = self.outbox.waiting_count(report.channel)
        return reports

    def _guarded(self, channel: Channel, report: Report) -> None:
        try:
            with self.outbox.delivering(channel.name) as mine:
                if not mine:
                    report.busy = True
                    return
                try:
                    self._deliver(channel, report)
                finally:
                    channel.close()
        except Exception as error:
            # An unforeseen error, of the channel or of this machine's disk: the other channel continues.
            log.exception("delivery on %s failed", channel.name)
            report.error = f"예상하지 못한 오류 ({type(error).__name__})"
            with suppress(sqlite3.Error):
                self._failed(channel.name, report, ChannelFailed(report.error))

    def _time_is_up(self) -> bool:
        return time.monotonic() - self._started > self.budget

    def _deliver(self, channel: Channel, report: Report) -> None:
        name = channel.name
        health = self.outbox.health(name)
        if health.left_alone(self.clock()):
            report.error = health.error
            return
        try:
            if self.outbox.waiting_count(name):
                # On a full disk no message could be marked as delivered, and the same one would be sent at every tick.
                self.outbox.set_fact(f"tried:{name}", self.clock().timestamp())
            self._messages(channel, report)
            self._files(channel)
        except ChannelFailed as failed:
            self._failed(name, report, failed)

    def _messages(self, channel: Channel, report: Report) -> None:
        refusals = 0
        for portion in self._plan(self.outbox.waiting(channel.name, self.clock()), channel.gathers):
            if self._time_is_up():
                return
            if self._portion(channel, portion, report):
                refusals = 0
                continue
            refusals += 1
            if refusals >= REFUSALS:
                raise ChannelFailed(report.error)

    def _plan(self, waiting: list[Waiting], gathers: bool) -> list[list[Waiting]]:
        if len(waiting) <= GATHER_FROM or not gathers:
            return [[each] for each in waiting]
        if min(each.attempts for each in waiting) >= PROBE_AFTER:
            # Is the channel down, or only one message refused? A single message that arrives shows that it is up.
            return [[waiting[0]], *self._portions(waiting[1:])]
        return self._portions(waiting)

    def _portion(self, channel: Channel, portion: list[Waiting], report: Report) -> bool:
        """Sends one message, or many as one; a gathering that is refused is sent one by one."""
        message = portion[0].message if len(portion) == 1 else gathering([w.message for w in portion], self.zone)
        try:
            reference = channel.send(message)
        except MessageRefused as refused:
            return self._one_by_one(channel, portion, report, refused.sentence)
        except ChannelFailed as failed:
            if not failed.maybe_message:
                raise
            self.outbox.tried(channel.name, [w.message.id for w in portion])
            up = self.outbox.health(channel.name).failures == 0
            if not up or portion[0].attempts < BLAME_AFTER:
                raise
            return self._one_by_one(channel, portion, report, failed.sentence)
        except Exception as error:
            # This message can't even be put together: that must not hold up the next one.
            log.exception("message %s could not be sent on %s", message.id, channel.name)
            return self._one_by_one(channel, portion, report, f"메시지를 만들 수 없습니다 ({type(error).__name__})")
        files = self.files(channel.name, message) if len(portion) == 1 else ()
        self.outbox.delivered(channel.name, [w.message.id for w in portion], self.clock(), reference, files)
        report.delivered += len(portion)
        return True

    def _one_by_one(self, channel: Channel, portion: list[Waiting], report: Report, error: str) -> bool:
        """After a refusal: the messages of a portion are tried one by one; one that was alone waits for the next
        tick."""
        report.error = error
        if len(portion) == 1:
            report.refused += 1
            self._refused(channel.name, portion[0], error)
            return False
        taken = [self._portion(channel, [one], report) for one in portion if not self._time_is_up()]
        return any(taken)

    def _portions(self, waiting: list[Waiting]) -> list[list[Waiting]]:
        """Parts that each fit into one gathered message. Messages with a picture are sent alone: they are few."""
        parts: list[list[Waiting]] = [[w] for w in waiting if w.message.picture]
        current: list[Waiting] = []
        size = 0
        for each in (w for w in waiting if not w.message.picture):
            length = len(escaped(gathered_line(each.message, self.zone)))
            if current and size + length > GATHERED_CHARACTERS:
                parts.append(current)
                current, size = [], 0
            current.append(each)
            size += length + 1
        return [*parts, current] if current else parts

    def _refused(self, channel: str, waiting: Waiting, error: str) -> None:
        pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(waiting.attempts, 10))
        again = self.clock() + timedelta(seconds=pause)
        self.outbox.refused(channel, waiting.message.id, error, again)

    def _failed(self, channel: str, report: Report, failed: ChannelFailed) -> None:
        report.error = failed.sentence
        now = self.clock()
        failures = self.outbox.health(channel).failures
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 10))
        if failed.retry_after is not None:
            pause = min(max(failed.retry_after, 1.0), LONGEST_WAIT.total_seconds())
        self.outbox.channel_failed(channel, failed.sentence, now, now + timedelta(seconds=pause))

    def _files(self, channel: Channel) -> None:
        for file in self.outbox.waiting_files(channel.name, self.clock()):
            if self._time_is_up():
                return
            try:
                self._file(channel, file)
            except Exception as error:
                # A file never holds up the words that come after it.
                pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(file.attempts, 10))
                self.outbox.file_refused(channel.name, file, self.clock() + timedelta(seconds=pause))
                log.warning("file %d of %s was not sent (%s)", file.number, file.message.id, type(error).__name__)
                if isinstance(error, ChannelFailed):
                    if file.attempts == 0:
                        self._say_why(channel, file, error)
                    if error.retry_after is not None:
                        raise

    def _file(self, channel: Channel, file: WaitingFile) -> None:
        found = self.open_file(file)
        if found.instead:
            channel.note(found.instead, file.reference)
        elif found.content:
            channel.attach(found.title, found.filename, found.content, file.reference)
        self.outbox.file_done(channel.name, file, self.clock())

    def _say_why(self, channel: Channel, file: WaitingFile, error: ChannelFailed) -> None:
        try:
            channel.note(f"⚠️ 파일을 첨부하지 못했습니다: {error.sentence}", file.reference)
        except (ChannelFailed, MessageRefused) as failed:
            log.warning("%s", failed.sentence)


def gathering(messages: Sequence[Message], zone: ZoneInfo) -> Message:
    """Many messages as one, each in a line with its time; the worst first would hide the order, so it is kept."""
    bad = sum(m.level in ("error", "warning") for m in messages)
    first, last = messages[0].happened, messages[-1].happened
    head = [
        f"📬 *밀린 알림 {len(messages)}건* (오류·경고 {bad}건)",
        f"- 발생 시각: {local(first, zone)} ~ {local(last, zone)}",
    ]
    text = "\n".join([*head, *(gathered_line(m, zone) for m in messages)])
    digest = sha256("\n".join(m.id for m in messages).encode()).hexdigest()[:16]
    return Message(
        id=f"gathering:{digest}", text=text, level="error" if bad else "info", happened=last,
        line=f"📬 밀린 알림 {len(messages)}건 (오류·경고 {bad}건)",
    )  # fmt: skip


def gathered_line(message: Message, zone: ZoneInfo) -> str:
    title = message.title if len(message.title) <= LINE else f"{message.title[:LINE]}…"
    run = f" (run {message.run_id[:8]})" if message.run_id else ""
    return f"• {message.happened.astimezone(zone):%m-%d %H:%M:%S} {title}{run}"
