"""Starting through Dagster's webserver: what is launched, by which tags it is known, and that it is launched once.

There is no daemon here, so that runs stay in the queue until a test says how they ended.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from saju_ops.trigger import start as start_module
from saju_ops.trigger.start import Group, Starter
from saju_ops.trigger.webserver import Unreachable, Webserver
from saju_ops_tests.defs.project import RANGE_END, RANGE_START, Project, ago
from saju_ops_tests.trigger.scene import BEARER, TOKEN, InThread, Trigger, WebserverOnly, error_of

CLEANUP = "saju_ops/cleanup"
ARCHIVE = dg.AssetKey("conversation_log_archive")
JOBS = "archive_conversation_logs,purge_conversation_logs,restore_conversation_logs,no_such_job"


class Dagster:
    """The webserver, and the same instance seen from here."""

    def __init__(self, server: WebserverOnly, instance: dg.DagsterInstance, project: Project) -> None:
        self.server, self.instance, self.project = server, instance, project
        self.url = server.url

    def runs(self, job: str | None = None) -> list[dg.DagsterRun]:
        """Oldest first."""
        return list(reversed(self.instance.get_runs(dg.RunsFilter(job_name=job))))

    def ends(self, run_id: str, event: str = "RUN_SUCCESS") -> None:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        kind = dg.DagsterEventType[event]
        self.instance.report_dagster_event(
            dg.DagsterEvent(kind.value, job_name=run.job_name, message=event), run_id=run_id
        )

    def launch(self, job: str, tags: dict[str, str]) -> str:
        query = """mutation ($p: ExecutionParams!) { launchRun(executionParams: $p) {
          __typename ... on LaunchRunSuccess { run { runId } } } }"""
        parameters = {
            "selector": {"repositoryLocationName": "saju_ops", "repositoryName": "__repository__", "jobName": job},
            "runConfigData": {}, "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }  # fmt: skip
        answer = self.server.graphql(query, p=parameters)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess"
        run_id: str = answer["run"]["runId"]
        return run_id

    def forget_all(self) -> None:
        for run in self.instance.get_runs():
            self.instance.delete_run(run.run_id)
        self.instance.wipe_assets([ARCHIVE])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    folder = tmp_path_factory.mktemp("webserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        project = Project(f"sqlite:///{folder}/logs.db", folder, patch, ARCHIVE_START_DATE=str(ago(40)))
        with WebserverOnly(folder / "home", project.environment()) as server:
            with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
                yield Dagster(server, instance, project)


@pytest.fixture
def dagster(shared: Dagster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dagster]:
    monkeypatch.setenv("DAGSTER_HOME", str(shared.server.home))
    yield shared
    shared.forget_all()


@pytest.fixture
def trigger(dagster: Dagster) -> Iterator[InThread]:
    with InThread(DAGSTER_WEBSERVER_URL=dagster.url, TRIGGER_JOBS=JOBS) as trigger:
        yield trigger


# --- the clean-up -----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_call_launches_what_the_schedule_asks_for_and_says_where_to_look(
    dagster: Dagster, trigger: InThread, method: str
) -> None:
    answer = trigger.call(method, "/run-cleanup")
    assert answer.status_code == 202
    body = answer.json()
    (run,) = dagster.runs()
    assert run.job_name == "archive_conversation_logs"
    assert (run.tags[RANGE_START], run.tags[RANGE_END]) == (str(ago(40)), str(ago(31)))
    assert run.tags[CLEANUP] == run.tags["saju_ops/trigger"] == body["name"]
    assert run.tags["saju_ops/cleanup_runs"] == "1"
    assert "dagster/schedule_name" not in run.tags, "it was not the schedule"
    assert body["run_id"] == run.run_id
    assert body["state_url"] == answer.headers["location"] == f"{trigger.url}/run-cleanup/{run.run_id}"
    assert body["link"] == f"{dagster.url}/runs/{run.run_id}"
    assert (body["started"], body["state"], body["done"], body["purge"]) == (True, "queued", False, None)
    assert [r["days"] for r in body["runs"]] == [f"{ago(40)}...{ago(31)}"]


@pytest.mark.long
def test_days_with_gaps_become_several_runs_of_one_clean_up(dagster: Dagster, trigger: InThread) -> None:
    for days in (38, 37, 34):
        dagster.instance.report_runless_asset_event(dg.AssetMaterialization(ARCHIVE, partition=str(ago(days))))
    body = trigger.call("POST", "/run-cleanup").json()
    runs = dagster.runs()
    assert [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in runs] == [
        (str(ago(40)), str(ago(39))), (str(ago(36)), str(ago(35))), (str(ago(33)), str(ago(31))),
    ]  # fmt: skip
    assert {r.tags[CLEANUP] for r in runs} == {body["name"]}
    assert {r.tags["saju_ops/cleanup_runs"] for r in runs} == {"3"}
    assert [r["run_id"] for r in body["runs"]] == [r.run_id for r in runs]
    for run in runs:
        assert trigger.call("GET", f"/run-cleanup/{run.run_id}").json()["name"] == body["name"]


@pytest.mark.long
def test_a_second_call_gets_the_running_one_until_its_purge_has_ended(dagster: Dagster, trigger: InThread) -> None:
    first = trigger.call("POST", "/run-cleanup").json()

    def again() -> dict[str, Any]:
        answer = trigger.call("POST", "/run-cleanup")
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        assert (body["run_id"], body["name"], body["started"]) == (first["run_id"], first["name"], False)
        return body

    assert again()["state"] == "queued"
    dagster.ends(first["run_id"])
    assert again()["state"] == "waiting_for_purge"
    purge = dagster.launch("purge_conversation_logs", {CLEANUP: first["name"]})
    body = again()
    assert (body["state"], body["purge"]["run_id"], body["purge"]["status"]) == ("purging", purge, "QUEUED")
    dagster.ends(purge)
    state = trigger.call("GET", f"/run-cleanup/{first['run_id']}")
    assert (state.status_code, state.json()["state"], state.json()["done"]) == (200, "succeeded", True)
    assert trigger.call("GET", f"/run-cleanup/{purge}").json()["name"] == first["name"]
    assert trigger.call("GET", f"/run-cleanup/{first['name']}").json()["name"] == first["name"]
    assert len(dagster.runs()) == 2
    second = trigger.call("POST", "/run-cleanup")
    assert second.status_code == 202
    assert second.json()["name"] != first["name"]


@pytest.mark.long
@pytest.mark.parametrize(("event", "state"), [("RUN_FAILURE", "failed"), ("RUN_CANCELED", "canceled")])
def test_after_a_failure_the_state_says_so_and_another_call_starts_anew(
    dagster: Dagster, trigger: InThread, event: str, state: str
) -> None:
    first = trigger.call("POST", "/run-cleanup").json()
    dagster.ends(first["run_id"], event)
    body = trigger.call("GET", first["state_url"].removeprefix(trigger.url)).json()
    assert (body["state"], body["done"]) == (state, True)
    assert "nothing is purged until it is run again" in body["message"]
    assert trigger.call("POST", "/run-cleanup").status_code == 202


def test_the_clean_up_of_the_schedule_is_joined_too(dagster: Dagster, trigger: InThread) -> None:
    days = {RANGE_START: str(ago(40)), RANGE_END: str(ago(31)), CLEANUP: "2026-01-05T00:00Z"}
    run_id = dagster.launch("archive_conversation_logs", {**days, "dagster/schedule_name": "log_cleanup"})
    answer = trigger.call("POST", "/run-cleanup")
    assert (answer.status_code, answer.json()["run_id"]) == (200, run_id)
    assert len(dagster.runs()) == 1


def test_days_that_somebody_archives_by_hand_are_left_out_and_with_nothing_left_it_says_so(
    dagster: Dagster, trigger: InThread
) -> None:
    dagster.launch("archive_conversation_logs", {RANGE_START: str(ago(40)), RANGE_END: str(ago(31))})
    answer = trigger.call("POST", "/run-cleanup")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["run_id"], answer.json()["done"]) == ("nothing_to_do", None, True)
    assert "Nothing was started" in answer.json()["message"]
    assert len(dagster.runs()) == 1


def test_a_trigger_that_was_killed_and_started_again_knows_what_runs(dagster: Dagster) -> None:
    with InThread(DAGSTER_WEBSERVER_URL=dagster.url) as trigger:
        first = trigger.call("POST", "/run-cleanup").json()
    with InThread(DAGSTER_WEBSERVER_URL=dagster.url) as trigger:
        assert trigger.call("POST", "/run-cleanup").json()["run_id"] == first["run_id"]
    assert len(dagster.runs()) == 1


def test_a_run_that_is_no_clean_up_or_unknown_is_404(dagster: Dagster, trigger: InThread) -> None:
    by_hand = dagster.launch("purge_conversation_logs", {})
    for run_id in (by_hand, "00000000-0000-0000-0000-000000000000", "2026-01-05T00:00Z"):
        answer = trigger.call("GET", f"/run-cleanup/{run_id}")
        assert (answer.status_code, error_of(answer)) == (404, "Dagster has no such run here.")


def test_a_database_that_is_down_is_503_with_the_schedule_s_own_sentence(dagster: Dagster, trigger: InThread) -> None:
    database = Path(dagster.project.settings["DATABASE_URL"].removeprefix("sqlite:///"))
    database.rename(database.with_suffix(".away"))
    try:
        answer = trigger.call("POST", "/run-cleanup")
    finally:
        database.with_suffix(".away").rename(database)
    assert answer.status_code == 503
    assert "can't be reached" in error_of(answer)
    assert dagster.runs() == []


@pytest.mark.long
def test_it_cannot_be_started_over_and_over(
    dagster: Dagster, trigger: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_module, "STARTS_PER_MINUTE", 1)
    first = trigger.call("POST", "/run-cleanup")
    assert first.status_code == 202
    assert trigger.call("POST", "/run-cleanup").status_code == 200, "joining is not starting"
    dagster.ends(first.json()["run_id"], "RUN_FAILURE")
    answer = trigger.call("POST", "/run-cleanup")
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "1 starts were tried within a minute" in error_of(answer)
    assert len(dagster.runs()) == 1


# --- single jobs ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_an_archive_alone_is_not_followed_by_a_purge(dagster: Dagster, trigger: InThread) -> None:
    answer = trigger.call("POST", "/jobs/archive_conversation_logs")
    assert answer.status_code == 202
    (run,) = dagster.runs()
    assert run.tags[RANGE_START] == str(ago(40))
    assert CLEANUP not in run.tags
    assert answer.json()["state_url"] == f"{trigger.url}/jobs/archive_conversation_logs/{run.run_id}"
    assert trigger.call("GET", "/jobs/archive_conversation_logs").json()["run_id"] == run.run_id
    assert trigger.call("GET", f"/run-cleanup/{run.run_id}").status_code == 404
    dagster.ends(run.run_id)
    state = trigger.call("GET", f"/jobs/archive_conversation_logs/{run.run_id}").json()
    assert (state["state"], state["done"]) == ("succeeded", True)


def test_a_job_that_only_a_sensor_starts_does_the_real_work_and_is_started_once(
    dagster: Dagster, trigger: InThread
) -> None:
    by_hand = dagster.launch("purge_conversation_logs", {})
    body = trigger.call("POST", "/jobs/purge_conversation_logs").json()
    assert body["started"], "a dry run by hand is no reason not to"
    (first, second) = dagster.runs("purge_conversation_logs")
    assert (first.run_id, second.run_id) == (by_hand, body["run_id"])
    assert second.run_config == {"ops": {"purge_conversation_logs": {"config": {"dry_run": False}}}}
    again = trigger.call("GET", "/jobs/purge_conversation_logs")
    assert (again.status_code, again.json()["run_id"]) == (200, body["run_id"])
    assert trigger.call("GET", f"/jobs/archive_conversation_logs/{body['run_id']}").status_code == 404


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ("restore_conversation_logs", "No schedule or sensor starts restore_conversation_logs"),
        ("no_such_job", "There is no job no_such_job"),
        ("prune_backups", "TRIGGER_JOBS allows archive_conversation_logs, no_such_job"),
    ],
)
def test_other_jobs_are_403(dagster: Dagster, trigger: InThread, job: str, sentence: str) -> None:
    answer = trigger.call("POST", f"/jobs/{job}")
    assert answer.status_code == 403
    assert sentence in error_of(answer)
    assert dagster.runs() == []


# --- many at once -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_thousand_calls_at_once_start_one_clean_up(dagster: Dagster, tmp_path: Path) -> None:
    async def storm(url: str) -> list[httpx.Response]:
        # No connection is used twice: one that the server closes as idle on a busy machine would fail a call.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
            return await asyncio.gather(
                *(client.request("GET" if n % 2 else "POST", f"{url}/run-cleanup", headers=BEARER)
                  for n in range(1000))
            )  # fmt: skip

    with Trigger(tmp_path / "trigger", DAGSTER_WEBSERVER_URL=dagster.url) as trigger:
        began = time.monotonic()
        answers = asyncio.run(storm(trigger.url))
        seconds = time.monotonic() - began
        assert TOKEN not in trigger.said()
        assert "Traceback" not in trigger.said()
    (run,) = dagster.runs()
    assert {a.json()["run_id"] for a in answers} == {run.run_id}
    assert sorted(a.status_code for a in answers) == [200] * 999 + [202]
    assert seconds < 20


@pytest.mark.long
def test_several_processes_called_at_once_start_one_clean_up(dagster: Dagster, tmp_path: Path) -> None:
    """Nothing but Dagster is between them. A process whose run came second withdraws it."""
    for days in (38, 35):
        dagster.instance.report_runless_asset_event(dg.AssetMaterialization(ARCHIVE, partition=str(ago(days))))
    settings = {"DAGSTER_WEBSERVER_URL": dagster.url}
    with (
        Trigger(tmp_path / "a", **settings) as a, Trigger(tmp_path / "b", **settings) as b,
        InThread(**settings) as c, ThreadPoolExecutor(12) as pool,
    ):  # fmt: skip
        answers = list(pool.map(lambda t: t.call("POST", "/run-cleanup").json(), [a, b, c] * 4))
    going = [r for r in dagster.runs() if not r.is_finished]
    assert len({r.tags[CLEANUP] for r in going}) == 1
    assert len(going) == 3
    assert {a["name"] for a in answers} == {going[0].tags[CLEANUP]}
    assert {r.status for r in dagster.runs() if r.is_finished} <= {dg.DagsterRunStatus.CANCELED}


@pytest.mark.long
def test_who_looks_before_another_has_launched_and_launches_after_it_withdraws(
    dagster: Dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race itself, made certain: both look, both find nothing, both launch."""

    async def both() -> list[Group]:
        async with Webserver(dagster.url) as one, Webserver(dagster.url) as two:
            together = asyncio.Barrier(2)
            for webserver in (one, two):
                asked = webserver.asked_for

                async def wait(*a: Any, asked: Any = asked) -> Any:
                    found = await asked(*a)
                    await together.wait()
                    return found

                monkeypatch.setattr(webserver, "asked_for", wait)
            return await asyncio.gather(Starter(one).start_cleanup(), Starter(two).start_cleanup())

    groups = asyncio.run(both())
    first, second = dagster.runs()
    assert [g.name for g in groups] == [first.tags[CLEANUP]] * 2
    assert sorted(g.started for g in groups) == [False, True]
    assert (first.status, second.status) == (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.CANCELED)


# --- answers that are lost, broken or never come -------------------------------------------------------------


class Between:
    """Between trigger and webserver; `spoil` is the text of a query whose answer does not come back."""

    def __init__(self, target: str, spoil: str, reply: bytes | None = None) -> None:
        outer, self.seen = self, 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = httpx.post(
                    f"{target}{self.path}", content=body, headers={"Content-Type": "application/json"}, timeout=60
                )
                if spoil.encode() in body:
                    outer.seen += 1
                    if reply is None:
                        self.close_connection = True
                        return
                    self.wfile.write(reply)
                    return
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Between:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def start_through(url: str) -> Group:
    async def start() -> Group:
        async with Webserver(url) as webserver:
            return await Starter(webserver).start_cleanup()

    return asyncio.run(start())


@pytest.mark.long
def test_a_launch_whose_answer_is_lost_is_found_again_and_not_repeated(dagster: Dagster) -> None:
    dagster.instance.report_runless_asset_event(dg.AssetMaterialization(ARCHIVE, partition=str(ago(36))))
    with Between(dagster.url, "launchRun") as between:
        group = start_through(between.url)
        assert between.seen == 2
    assert [r.run_id for r in dagster.runs()] == [r.run_id for r in group.runs]
    assert len(group.runs) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (None, "RemoteProtocolError"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", "HTTP 502 and no JSON"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "HTTP 302 and no JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", "and no JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "and no JSON"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 33\r\n\r\n" + b'{"errors":[{"message":"secret"}]}', "a GraphQL error"),
    ],
    ids=["closed", "html", "redirect", "null", "list", "errors"],
)
def test_what_is_no_answer_of_dagster_s_is_unreachable_and_starts_nothing(
    dagster: Dagster, reply: bytes | None, why: str
) -> None:
    with Between(dagster.url, "scheduleDryRun", reply) as between, pytest.raises(Unreachable) as refused:
        start_through(between.url)
    assert why in str(refused.value)
    assert "secret" not in str(refused.value)
    assert dagster.runs() == []


@pytest.mark.long
def test_a_clean_up_whose_starter_died_halfway_does_not_keep_others_from_starting(
    dagster: Dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = {RANGE_START: str(ago(40)), RANGE_END: str(ago(38)), CLEANUP: "dead", "saju_ops/cleanup_runs": "3"}
    run_id = dagster.launch("archive_conversation_logs", days)
    assert start_through(dagster.url).name == "dead", "it may still be launching"
    monkeypatch.setattr("saju_ops.trigger.state.START_PATIENCE", 0.0)
    group = start_through(dagster.url)
    assert group.started
    assert [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in group.runs] == [(str(ago(37)), str(ago(31)))]
    assert run_id not in {r.run_id for r in group.runs}


@pytest.mark.long
def test_callers_who_hang_up_do_not_cut_off_what_was_begun(dagster: Dagster, trigger: InThread) -> None:
    for days in (38, 35):
        dagster.instance.report_runless_asset_event(dg.AssetMaterialization(ARCHIVE, partition=str(ago(days))))
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{trigger.url}/run-cleanup", headers=BEARER, timeout=0.05)
    body = trigger.call("POST", "/run-cleanup").json()
    assert len(dagster.runs()) == len(body["runs"]) == 3


def test_the_state_of_a_clean_up_is_plain_json(dagster: Dagster, trigger: InThread) -> None:
    body = trigger.call("POST", "/run-cleanup").json()
    assert set(body) == {
        "run_id", "name", "started", "state", "done", "message", "state_url", "link", "runs", "purge",
    }  # fmt: skip
    assert json.loads(json.dumps(body)) == body
    assert start_module.CLEANUP_SCHEDULE == "log_cleanup"
