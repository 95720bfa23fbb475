"""Starts the clean-up, or an allowed job, once, however many callers in however many processes call at the same moment.

Within a process, calls that come while one is being answered share its answer. Between processes, the order in which
Dagster's storage took the runs decides: a process whose run came second withdraws it and joins the first.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from saju_ops.tags import CLEANUP, CLEANUP_RUNS, TRIGGER, TRIGGER_PART
from saju_ops.trigger.limits import Bucket
from saju_ops.trigger.state import ARCHIVE_JOB, PURGE_JOB, PURGE_PATIENCE, State, cleanup_state, job_state
from saju_ops.trigger.webserver import ACTIVE, CannotStart, Location, Request, Run, Webserver
from saju_ops.words import counted

CLEANUP_SCHEDULE = "log_cleanup"
STARTS_PER_MINUTE = 10
# By these tags a run is known to do the real work, and not to be somebody's dry run by hand.
BY_DAGSTER = ("dagster/schedule_name", "dagster/sensor_name")


class TooMany(Exception):
    """`seconds` until another start is allowed."""

    def __init__(self, seconds: int) -> None:
        wait = counted(seconds, "second")
        super().__init__(f"{STARTS_PER_MINUTE} starts were tried within a minute; try again in {wait}.")
        self.seconds = seconds


class NotAllowed(CannotStart):
    """The job isn't one that a call from outside may start."""


@dataclass(frozen=True)
class Group:
    """What belongs together: a clean-up, or the runs of one call. `started` is true for the call that started it."""

    name: str | None
    runs: Sequence[Run]
    state: State
    started: bool = False


class Starter:
    def __init__(
        self, webserver: Webserver, allowed: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self._webserver = webserver
        self._allowed = frozenset(allowed)
        self._clock = clock
        self._under_way: dict[str, asyncio.Task[Group]] = {}
        self._starts: dict[str, Bucket] = {}

    # --- calls from outside ---------------------------------------------------------------------

    async def start_cleanup(self) -> Group:
        return await self._once("", self._start_cleanup)

    async def start_job(self, job: str) -> Group:
        if job not in self._allowed:
            listed = ", ".join(sorted(self._allowed)) or "no job"
            raise NotAllowed(f"The job {job} may not be started from outside; TRIGGER_JOBS allows {listed}.")
        return await self._once(job, lambda: self._start_job(job))

    async def cleanup_of(self, run_id: str) -> Group | None:
        """The clean-up that a run, or a clean-up's name, belongs to."""
        run = await self._webserver.run(run_id)
        name = run.tags.get(CLEANUP) if run else run_id
        return await self._cleanup(name) if name else None

    async def job_of(self, job: str, run_id: str) -> Group | None:
        run = await self._webserver.run(run_id)
        if run is None or run.job != job:
            return None
        return await self._call_of(run)

    # --- one answer for all simultaneous calls ----------------------------------------------------------------

    async def _once(self, target: str, start: Callable[[], Awaitable[Group]]) -> Group:
        task = self._under_way.get(target)
        if task is not None:
            return replace(await asyncio.shield(task), started=False)
        task = asyncio.ensure_future(start())
        self._under_way[target] = task
        task.add_done_callback(lambda _: self._under_way.pop(target, None))
        # A caller that hangs up must not cut off a clean-up between two of its launches.
        return await asyncio.shield(task)

    def _count_start(self, target: str) -> None:
        bucket = self._starts.setdefault(target, Bucket(STARTS_PER_MINUTE))
        if seconds := bucket.take():
            raise TooMany(seconds)

    # --- the clean-up ---------------------------------------------------------------------------------------

    async def _start_cleanup(self) -> Group:
        if going := await self._going_cleanup():
            return going
        self._count_start("")
        location = await self._webserver.location(CLEANUP_SCHEDULE)
        requests, reason = await self._webserver.asked_for(location, CLEANUP_SCHEDULE, self._clock())
        if not requests:
            # Another process may have started all of it since the first look.
            return await self._going_cleanup() or _nothing(reason)
        name = self._name()
        requests = [replace(r, tags={**r.tags, CLEANUP: name, CLEANUP_RUNS: str(len(requests))}) for r in requests]
        first = await self._launch(location, requests, name, slice(0, 1))
        if earlier := await self._going_cleanup(before=first[0]):
            await self._webserver.withdraw(first[0].run_id)
            return earlier
        runs = [*first, *await self._launch(location, requests, name, slice(1, None))]
        return Group(name, runs, cleanup_state(runs, self._clock()), started=True)

    async def _going_cleanup(self, before: Run | None = None) -> Group | None:
        """The first of the clean-ups that haven't ended; `before`: only those that Dagster took before this run."""
        recent = self._clock() - PURGE_PATIENCE
        found = await asyncio.gather(
            self._webserver.runs(job=ARCHIVE_JOB, statuses=list(ACTIVE)),
            self._webserver.runs(job=PURGE_JOB, statuses=list(ACTIVE)),
            self._webserver.runs(job=ARCHIVE_JOB, statuses=["SUCCESS"], updated_after=recent),
        )
        names = {r.tags[CLEANUP] for runs in found for r in runs if CLEANUP in r.tags}
        groups = [g for g in [await self._cleanup(name) for name in sorted(names)] if g and g.state.going]
        if before is not None:
            order = await self._order(groups, before)
            groups = [g for g in groups if order.get(str(g.name), len(order)) < order[before.tags[CLEANUP]]]
        return min(groups, key=lambda g: min(r.created for r in g.runs), default=None)

    async def _order(self, groups: Sequence[Group], mine: Run) -> dict[str, int]:
        """The clean-ups' places in the order in which the storage took their first runs."""
        ids = [r.run_id for g in groups for r in g.runs if r.job == ARCHIVE_JOB]
        listed = await self._webserver.runs(run_ids=sorted({*ids, mine.run_id}))
        order: dict[str, int] = {}
        for run in reversed(listed):
            order.setdefault(run.tags.get(CLEANUP, ""), len(order))
        return order

    async def _cleanup(self, name: str) -> Group | None:
        runs = [r for r in await self._webserver.runs(tags={CLEANUP: name}) if r.job in (ARCHIVE_JOB, PURGE_JOB)]
        return Group(name, runs, cleanup_state(runs, self._clock())) if runs else None

    # --- single jobs ----------------------------------------------------------------------------------------

    async def _start_job(self, job: str) -> Group:
        if going := await self._going_call(job):
            return going
        self._count_start(job)
        location = await self._webserver.location(CLEANUP_SCHEDULE)
        requests, reason = await self._requests(location, job)
        if not requests:
            return await self._going_call(job) or _nothing(reason)
        name = self._name()
        first = await self._launch(location, requests, name, slice(0, 1))
        if earlier := await self._going_call(job, before=first[0]):
            await self._webserver.withdraw(first[0].run_id)
            return earlier
        runs = [*first, *await self._launch(location, requests, name, slice(1, None))]
        return Group(name, runs, job_state(runs), started=True)

    async def _requests(self, location: Location, job: str) -> tuple[list[Request], str]:
        """What the job's schedule would start now; without a schedule, what a sensor does: the real work.

        A job that the project itself never starts, such as a restore, is a person's decision.
        """
        if job not in location.jobs:
            raise NotAllowed(f"There is no job {job}; TRIGGER_JOBS names it. Nothing was started.")
        schedules = sorted(name for name, target in location.schedules.items() if target == job)
        for schedule in schedules:
            requests, reason = await self._webserver.asked_for(location, schedule, self._clock())
            mine = [replace(r, tags=_without_cleanup(r.tags)) for r in requests if r.job == job]
            if mine:
                return mine, reason
        if schedules:
            return [], reason
        if job in location.by_sensor:
            return [Request(job, {"ops": {job: {"config": {"dry_run": False}}}}, {})], ""
        raise NotAllowed(f"No schedule or sensor starts {job}, so it is started by hand in the UI only.")

    async def _going_call(self, job: str, before: Run | None = None) -> Group | None:
        """The oldest run that does the real work and hasn't ended, with those of the same call."""
        active = await self._webserver.runs(job=job, statuses=list(ACTIVE))
        if before is not None:
            ids = [r.run_id for r in active]
            active = active[ids.index(before.run_id) + 1 :] if before.run_id in ids else []
        real = [r for r in active if TRIGGER in r.tags or any(tag in r.tags for tag in BY_DAGSTER)]
        return await self._call_of(real[-1]) if real else None

    async def _call_of(self, run: Run) -> Group:
        name = run.tags.get(TRIGGER)
        found = await self._webserver.runs(job=run.job, tags={TRIGGER: name}) if name else [run]
        return Group(name, found, job_state(found))

    # --- both -----------------------------------------------------------------------------------------------

    async def _launch(self, location: Location, requests: Sequence[Request], name: str, part: slice) -> list[Run]:
        launched = []
        for number, request in list(enumerate(requests, 1))[part]:
            mark = {TRIGGER: name, TRIGGER_PART: str(number)}
            launched.append(await self._webserver.launch(location, request, mark))
        return launched

    def _name(self) -> str:
        """Sorts by time; two calls within a second still differ."""
        moment = datetime.fromtimestamp(self._clock(), UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}-{secrets.token_hex(3)}"


def _without_cleanup(tags: object) -> dict[str, str]:
    """A job alone is that job alone: with the clean-up's tags an archive would be followed by its purge."""
    assert isinstance(tags, dict)
    return {key: value for key, value in tags.items() if key not in (CLEANUP, CLEANUP_RUNS)}


def _nothing(reason: str) -> Group:
    return Group(
        None, [], State("nothing_to_do", going=False, done=True, message=f"Nothing was started: {reason.rstrip('.')}.")
    )
