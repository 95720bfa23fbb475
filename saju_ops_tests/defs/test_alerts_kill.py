"""Two hundred runs end while Slack is down and the sensor's process is killed: each is reported, none twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from saju_ops_tests.defs.alerts_scene import FAILURE, SUCCESS, ended, new_instance
from saju_ops_tests.defs.dev_server import DevServer, until
from saju_ops_tests.defs.test_chain import forget
from saju_ops_tests.fakes.slack import TOKEN, FakeSlack

POST = "chat.postMessage"


class Worker:
    """The process that ticks; killed as by a loss of power."""

    def __init__(self, folder: Path, environment: dict[str, str], pause: float = 0.2) -> None:
        self.folder, self.log = folder, folder / "worker.log"
        command = [sys.executable, "-m", "saju_ops_tests.defs.alerts_worker", str(folder), str(pause)]
        paths = os.pathsep.join(p for p in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")) if p)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**environment, "PYTHONPATH": paths}, start_new_session=True
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ticks(self) -> int:
        return self.log.read_text().count("tick") if self.log.exists() else 0


@pytest.fixture
def fake() -> Iterator[FakeSlack]:
    with FakeSlack() as fake:
        yield fake


def times_reported(fake: FakeSlack, runs: list[str]) -> Counter[int]:
    """How many runs were reported how often. A run is named in each message by its id's first eight characters."""
    text = "\n".join(m.text for m in fake.messages)
    return Counter(text.count(f"run {run[:8]}") for run in runs)


@pytest.mark.long
def test_two_hundred_runs_are_reported_once_though_slack_was_down_and_the_sensor_was_killed_twice(
    tmp_path: Path, fake: FakeSlack
) -> None:
    folder = tmp_path / "instance"
    environment = {
        **os.environ, "PYTHONWARNINGS": "ignore", "SLACK_BOT_TOKEN": TOKEN, "SLACK_API_URL": fake.url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'logs.db'}",
    }  # fmt: skip
    instance = new_instance(folder)
    worker = Worker(folder, environment)
    try:
        until(worker.ticks, 60, "the first tick")
        reported_early = [ended(instance) for _ in range(5)]
        until(lambda: len(fake.messages) == 5, 30, "five messages")
        fake.down()
        runs = [ended(instance, random.choice([SUCCESS, FAILURE])) for _ in range(100)]
        seen = worker.ticks()
        until(lambda: worker.ticks() > seen, 30, "a tick while Slack is down")
        worker.kill()
        runs += [ended(instance) for _ in range(45)]
        worker = Worker(folder, environment)
        runs += [ended(instance) for _ in range(50)]
        # Slack takes a request and doesn't answer; so the process dies in the middle of a delivery.
        fake.fault(POST, "hang", times=0, seconds=60)
        posts = fake.calls.count(POST)
        fake.up()
        until(lambda: fake.calls.count(POST) > posts, 90, "an attempt that hangs")
        worker.kill()
        fake.mend()
        worker = Worker(folder, environment)
        until(lambda: times_reported(fake, runs)[0] == 0, 90, "all of them")
        time.sleep(1)
    finally:
        worker.kill()
    assert times_reported(fake, reported_early + runs) == {1: 200}
    gathered = [m for m in fake.messages if "밀린 알림" in m.text]
    assert gathered
    assert len(fake.messages) < 60


@pytest.mark.long
def test_kills_at_any_moment_lose_nothing_and_repeat_only_what_was_on_its_way(tmp_path: Path, fake: FakeSlack) -> None:
    folder = tmp_path / "instance"
    environment = {
        **os.environ, "PYTHONWARNINGS": "ignore", "SLACK_BOT_TOKEN": TOKEN, "SLACK_API_URL": fake.url,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'logs.db'}",
    }  # fmt: skip
    instance = new_instance(folder)
    fake.fault(POST, "slow", times=0, seconds=0.05)
    worker = Worker(folder, environment, pause=0.05)
    runs: list[str] = []
    try:
        until(worker.ticks, 60, "the first tick")
        for _ in range(2):
            runs += [ended(instance) for _ in range(10)]
            time.sleep(random.uniform(0.3, 1.2))
            worker.kill()
            worker = Worker(folder, environment, pause=0.05)
        until(lambda: times_reported(fake, runs)[0] == 0, 90, "all of them")
    finally:
        worker.kill()
    times_sent = times_reported(fake, runs)
    assert times_sent[0] == 0
    # At each kill one message may have been on its way.
    assert sum((times - 1) * count for times, count in times_sent.items()) <= 2, times_sent


@pytest.mark.long
def test_a_real_daemon_that_is_killed_twice_reports_every_run_once(
    tmp_path: Path, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    environment = {
        **os.environ, "PYTHONWARNINGS": "ignore", "DAGSTER_TELEMETRY_ENABLED": "false", "SLACK_BOT_TOKEN": TOKEN,
        "SLACK_API_URL": fake.url, "DATABASE_URL": f"sqlite:///{tmp_path / 'logs.db'}",
        "BACKUP_URI": str(tmp_path / "backups"),
    }  # fmt: skip
    outbox = home / "storage" / "saju_ops_alerts.sqlite"
    with DevServer(home, environment) as dev:
        until(lambda: outbox.exists() and _began(outbox), 60, "the sensor's first tick")
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.get() as instance:
            ticks = until(lambda: _ended_ticks(instance), 60, "the end of the first tick")
            assert {t.status for t in ticks} == {TickStatus.SKIPPED}, ticks[0].error
            failed = dev.launch("purge_conversation_logs", dry_run=True)  # there is no such database
            runs = [ended(instance) for _ in range(100)]
            until(lambda: _ended(instance, failed), 60, "the run's end")
            fake.down()
            dev.kill()
            runs += [ended(instance) for _ in range(100)]
            forget(instance, "alerts")
            dev.start()
            waiting = until(lambda: _waiting(outbox) >= 100, 180, "a tick while Slack is down")
            assert waiting
            dev.kill()
            fake.up()
            forget(instance, "alerts")
            dev.start()
            until(lambda: times_reported(fake, [*runs, failed])[0] == 0, 300, "all of them")
    assert times_reported(fake, [*runs, failed]) == {1: 201}
    assert any("대화 로그 삭제 실패" in m.text for m in fake.messages)


def _began(outbox: Path) -> bool:
    return _count(outbox, "SELECT COUNT(*) FROM facts WHERE key = 'last_tick'") == 1


def _ended_ticks(instance: dg.DagsterInstance) -> list[InstigatorTick]:
    state = next((s for s in instance.all_instigator_state() if s.instigator_name == "alerts"), None)
    ticks = [] if state is None else instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)
    return [t for t in ticks if t.status != TickStatus.STARTED]


def _waiting(outbox: Path) -> int:
    return _count(outbox, "SELECT COUNT(*) FROM deliveries WHERE told IS NULL")


def _count(outbox: Path, query: str) -> int:
    import sqlite3

    with sqlite3.connect(outbox, timeout=10) as db:
        try:
            return int(db.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # not made yet


def _ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.is_finished
