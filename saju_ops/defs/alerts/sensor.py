"""Informs the operators of what happened: the sensor `alerts`.

A plain sensor, because a run-status sensor whose body raises still advances its cursor, and the alert is lost. Each
tick puts what happened since the last into the outbox, in one transaction with the position up to which it has read.
Then it sends what waits there to the channels. So a tick may be killed at any instruction, fail or run out of time: the
next one continues. The very first tick reports nothing of the past.

While a delivery keeps failing, the tick fails too, after everything was made durable: so the UI shows it. The sensor's
own cursor is the position up to which everything was delivered; it is read only if the outbox was lost.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError
from saju_ops.settings.settings import Settings
from saju_ops.wiring import slack_client

if TYPE_CHECKING:
    from saju_ops.alerts.channels import Channel
    from saju_ops.alerts.deliver import Report
    from saju_ops.defs.alerts.events import Found
    from saju_ops.reports.message import Message

NAME = "alerts"
INTERVAL_SECONDS = 30
# A tick has 60 seconds: these for reading, and (in alerts.deliver) 35 for delivering.
READING_SECONDS = 12.0
# A run whose events can't be read is tried again so often before it is reported by its name alone.
READ_TRIES = 3
# Failures in a row, or of one message, after which a delivery counts as one that keeps failing.
KEEPS_FAILING = 3
_warned: set[str] = set()


class DeliveryFailing(OperatorError):
    """Alerts wait because a channel doesn't take them. None is lost."""


def alerts_sensor(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports every finished run to Slack and e-mail, and present problems: failed checks, late backups,"
        " schedules and sensors that are stopped or fail, runs that don't end. A failing tick says which channel takes"
        " no messages and why; waiting messages are kept and sent later. Resetting its cursor repeats no message.",
    )
    @without_secrets
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        tick = Tick(settings, context)
        summary = tick.run()
        if tick.failing:
            # A tick that raises doesn't save its cursor. It needn't: where the outbox is, the cursor isn't read.
            raise DeliveryFailing(" ".join(tick.failing))
        return dg.SensorResult(skip_reason=dg.SkipReason(summary), cursor=tick.cursor())

    return sensor


class RunLog:
    """Where there is no Slack token: the text in the log of the run that it is about."""

    name = "log"
    gathers = False

    def __init__(self, context: dg.SensorEvaluationContext, redact: Callable[["Message"], "Message"]) -> None:
        self._context, self._redact = context, redact

    def send(self, message: "Message") -> str:
        message = self._redact(message)
        self._context.log.info(message.text)
        run = self._context.instance.get_run_by_id(message.run_id) if message.run_id else None
        if run is not None:
            self._context.instance.report_engine_event(message.text, run)
        return ""

    def attach(self, title: str, filename: str, content: bytes, reference: str) -> None: ...

    def note(self, text: str, reference: str) -> None: ...

    def check(self) -> str:
        return "log"

    def close(self) -> None: ...


@dataclass
class Tick:
    """One look: read, judge, deliver."""

    settings: Settings
    context: dg.SensorEvaluationContext
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    failing: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from saju_ops.alerts.attachments import open_outbox
        from saju_ops.wiring import channels, redactor

        self.instance = self.context.instance
        self.outbox = open_outbox(outbox_folder(self.instance), self.now)
        redact = redactor(self.settings)
        self.channels: list[Channel] = channels(
            self.settings, self.outbox, lambda: slack_client(self.settings), RunLog(self.context, redact.message)
        )
        self.names = [c.name for c in self.channels]
        origin = self.context.code_location_origin
        self.location = origin.location_name if origin is not None else None
        repository = self.context.repository_def
        self.jobs = list(repository.job_names) if repository else []
        self.assets = [k.to_user_string() for k in repository.asset_graph.get_all_asset_keys()] if repository else []

    def run(self) -> str:
        """Does it all and says what it did. If the last tick ran out of time and still works, this one waits for it."""
        with self.outbox.delivering("tick") as mine:
            return self._run() if mine else "the tick before this one is still at work"

    def _run(self) -> str:
        self._warn_once()
        first = self.outbox.fact("cursor") is None
        if first:
            self._begin()
        self.outbox.drop_channels(self.names)
        self._read()
        self._watch()
        self._deliver()
        self.outbox.set_fact("last_tick", self.now.timestamp())
        self._tidy()
        begun = "begun here; nothing of the past is reported; " if first else ""
        waiting = sum(self.outbox.waiting_count(name) for name in self.names)
        return f"{begun}{self.counts.get('new', 0)} new, {self.counts.get('delivered', 0)} delivered, {waiting} waiting"

    # --- beginning ---------------------------------------------------------------------------------------------

    def _warn_once(self) -> None:
        """Warns, once in the life of this process, of what an operator may not know."""
        from saju_ops.wiring import email_problem

        warnings = [w for w in (email_problem(self.settings),) if w]
        if self.settings.slack_bot_token is None:
            warnings.append("SLACK_BOT_TOKEN is not set: alerts stand in the log of the runs that they are about.")
        for warning in warnings:
            if warning not in _warned:
                _warned.add(warning)
                self.context.log.warning(warning)

    def _begin(self) -> None:
        """Where to read from: here and now, or, where the outbox was lost, where the sensor's cursor was."""
        from saju_ops.defs.alerts.events import newest_ids

        known = _parsed(self.context.cursor)
        since = known.pop("since", None) if known else None
        cursor = known if since is not None else newest_ids(self.instance)
        self.outbox.add(
            [], [], self.now,
            facts={"since": since or self.now.timestamp(), "known_since": self.now.timestamp(), "cursor": cursor,
                   "deferred": {}},
        )  # fmt: skip

    def cursor(self) -> str:
        """The position up to which everything was delivered on every channel."""
        cursor: dict[str, float] = dict(self.outbox.fact("cursor") or {})
        for kind in list(cursor):
            low = self.outbox.low_water(kind)
            if low is not None:
                cursor[kind] = min(cursor[kind], low - 1)
        for each in (self.outbox.fact("deferred") or {}).values():
            cursor[each["kind"]] = min(cursor.get(each["kind"], 0), each["storage_id"] - 1)
        return json.dumps({"since": self.outbox.fact("since"), **cursor})

    def _since(self, fact: str = "since") -> datetime:
        return datetime.fromtimestamp(float(self.outbox.fact(fact)), UTC)

    # --- reading -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Finished runs into the outbox, portion by portion, each together with where it has read to."""
        from saju_ops.defs.alerts.events import endings

        end = time.monotonic() + READING_SECONDS
        since, known_since = self._since(), self._since("known_since")
        cursor = {k: int(v) for k, v in (self.outbox.fact("cursor") or {}).items()}
        waiting = self.outbox.fact("deferred") or {}
        self._portion([_unpacked(w) for w in waiting.values()], cursor, waiting, end)
        for portion, after in endings(self.instance, cursor, since, known_since, self.now):
            seen = self.outbox.known([_key(f) for f in portion])
            deferred = self.outbox.fact("deferred") or {}
            fresh = [f for f in portion if _key(f) not in seen and _key(f) not in deferred]
            if not self._portion(fresh, after, deferred, end):
                return

    def _portion(
        self, found: Sequence["Found"], after: Mapping[str, int], deferred: dict[str, Any], end: float
    ) -> bool:
        """False if time ran out before the portion's end: it is read again, and known messages are left out."""
        messages: list[Message] = []
        streams: list[tuple[str, int]] = []
        whole = True
        for each in found:
            if time.monotonic() > end:
                whole = False
                break
            message = self._message(each, deferred)
            if message is not None:
                messages.append(message)
                streams.append((each.kind.value, each.storage_id))
        facts: dict[str, Any] = {"deferred": deferred}
        if whole:
            facts["cursor"] = dict(after)
        new = self.outbox.add(messages, self.names, self.now, positions=streams, facts=facts)
        self.counts["new"] = self.counts.get("new", 0) + new
        return whole

    def _message(self, found: "Found", deferred: dict[str, Any]) -> "Message | None":
        """The message about a run's end; None for a run that isn't ours, was retried, or must wait."""
        from saju_ops.defs.alerts.events import finished_run, is_ours, last_word
        from saju_ops.reports.runs import FinishedRun, run_message

        key = _key(found)
        tries = deferred.get(key, {}).get("tries", 0)
        try:
            run = self.instance.get_run_by_id(found.run_id)
            deferred.pop(key, None)
            if not is_ours(run, found.job or (run.job_name if run else ""), self.jobs, self.assets, self.location):
                return None
            verdict = last_word(self.instance, found, run, self.now)
            if verdict == "wait":
                deferred[key] = _packed(found, 0)
            if verdict != "final":
                return None
            finished = finished_run(self.instance, found, run)
        except Exception as error:
            # A run that can't be read must not keep the others from being reported.
            self.context.log.warning(f"The events of run {found.run_id} can't be read ({type(error).__name__}).")
            if tries + 1 < READ_TRIES:
                deferred[key] = _packed(found, tries + 1)
                return None
            deferred.pop(key, None)
            finished = FinishedRun(found.run_id, found.job, found.ending, found.at)
        if finished.has_nothing_to_report:
            return None
        attach = self.settings.slack_attach != "off"
        return run_message(finished, link=self._link(found.run_id), cutoff=self._cutoff(found.at), attach=attach)

    def _cutoff(self, at: datetime) -> Any:
        from saju_ops.rows.days import cutoff_day

        return cutoff_day(at, self.settings.log_retention_days, self.settings.timezone).date

    def _link(self, run_id: str) -> str:
        return f"{self.settings.ui_url}/runs/{run_id}"

    # --- judging -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        from saju_ops.alerts.problems import settle
        from saju_ops.defs.alerts.events import is_ours
        from saju_ops.defs.alerts.watch import Place, look

        place = Place(
            instance=self.instance, repository=self.context.repository_def, location=self.location, now=self.now,
            zone=self.settings.timezone, max_runtime=timedelta(hours=self.settings.alert_run_hours), link=self._link,
            is_ours=lambda run: is_ours(run, run.job_name, self.jobs, self.assets, self.location),
            known=self.outbox.known, since=self._since(), own_sensor=NAME, first_seen=self._first_seen,
        )  # fmt: skip
        settle(
            self.outbox, look(place), self.names, self.now, zone=self.settings.timezone,
            reminder=timedelta(hours=self.settings.alert_reminder_hours),
        )  # fmt: skip

    def _first_seen(self, key: str) -> datetime:
        known = self.outbox.fact(f"first_seen:{key}")
        if known is None:
            self.outbox.set_fact(f"first_seen:{key}", self.now.timestamp())
            return self.now
        return datetime.fromtimestamp(float(known), UTC)

    # --- delivering --------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        from saju_ops.alerts.attachments import Files
        from saju_ops.alerts.deliver import Delivery

        files = Files(self.settings, BackupStorage().open)
        reports = Delivery(self.outbox, self.settings.timezone, files.follow, files.open).run(self.channels)
        for report in reports:
            self.counts["delivered"] = self.counts.get("delivered", 0) + report.delivered
            if report.error:
                self.context.log.warning(f"{report.channel}: {report.error} ({report.left} waiting)")
        self._failing(reports)

    def _failing(self, reports: Sequence["Report"]) -> None:
        """A channel that keeps failing is a problem that the other channels report, and makes the tick fail."""
        from saju_ops.alerts.problems import Problem, Seen, settle

        seen = Seen(kinds={"channel", "message"})
        about = {}
        for report in reports:
            stuck = self.outbox.stuck(report.channel, KEEPS_FAILING)
            failures = report.health.failures if report.health else 0
            if failures >= KEEPS_FAILING:
                key, error = f"channel:{report.channel}", report.health.error if report.health else report.error
            elif stuck and not failures:
                key, error = f"message:{report.channel}", f"{stuck}건이 거듭 거절되었습니다. {report.error}"
            else:
                if failures or stuck:
                    seen.unknown |= {f"channel:{report.channel}", f"message:{report.channel}"}
                continue
            about[key] = report.channel
            self.failing.append(f"{report.channel}: {error} ({report.left} waiting, none lost)")
            lines = (f"- 이유: {error}", f"- 기다리는 알림: {report.left}건 (잃어버린 알림 없음)",
                     "- 할 일: `saju-ops test-alert`로 확인하세요.")  # fmt: skip
            seen.problems.append(Problem(key, f"알림이 전달되지 않습니다: {report.channel}", lines, "error"))
        settle(
            self.outbox, seen, self.names, self.now, zone=self.settings.timezone, not_through=about,
            reminder=timedelta(hours=self.settings.alert_reminder_hours),
        )  # fmt: skip

    def _tidy(self) -> None:
        day = f"{self.now:%Y-%m-%d}"
        if self.outbox.fact("tidied") != day:
            self.outbox.prune(self.now)
            self.outbox.set_fact("tidied", day)


def outbox_folder(instance: dg.DagsterInstance) -> Path:
    """Beside Dagster's own history, in DAGSTER_HOME."""
    return Path(instance.storage_directory())


def _parsed(cursor: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(cursor) if cursor else None
    except ValueError:
        return None
    if not isinstance(found, dict) or not all(isinstance(v, int | float) for v in found.values()):
        return None
    return found


def _key(found: "Found") -> str:
    from saju_ops.reports.runs import run_key

    return run_key(found.run_id, found.ending)


def _packed(found: "Found", tries: int) -> dict[str, Any]:
    return {
        "run_id": found.run_id, "job": found.job, "kind": found.kind.value, "storage_id": found.storage_id,
        "at": found.at.timestamp(), "tries": tries,
    }  # fmt: skip


def _unpacked(raw: Mapping[str, Any]) -> "Found":
    from saju_ops.defs.alerts.events import Found

    at = datetime.fromtimestamp(raw["at"], UTC)
    return Found(raw["run_id"], raw["job"], dg.DagsterEventType(raw["kind"]), raw["storage_id"], at)
