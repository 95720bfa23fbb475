"""Dagster's webserver over GraphQL: lists schedules, evaluates them, launches runs and looks at them.

Every failure becomes one of two errors, each a sentence. An answer that is lost on its way back starts nothing twice.
Redirects are not followed, and no proxy from the environment is used.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from saju_ops.errors import OperatorError

RETRY_SECONDS = 30
CONNECT_SECONDS = 3.0
# A schedule asks the database which days are due; Dagster gives it 60 s.
ANSWER_SECONDS = 70.0
# Runs of one clean-up: one for each stretch of days without an archive.
MOST_RUNS = 1000
ACTIVE = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
# Errors whose messages are written for operators, and hold no secret.
OUR_ERRORS = {"OperatorError", "Busy", "Refused", "ProofFailed", "SettingsError"}
# Tags that name the launcher of a run: here the trigger.
SCHEDULES_OWN = ("dagster/schedule_name", "dagster/run_key")


class Unreachable(OperatorError):
    """Dagster doesn't answer, or not yet, or something that it relies on doesn't. The same call may succeed later."""


class CannotStart(OperatorError):
    """Dagster answered that it can't be done. The same call fails again until somebody changes something."""


@dataclass(frozen=True)
class Run:
    run_id: str
    job: str
    status: str
    tags: Mapping[str, str]
    # Seconds since 1970, UTC.
    created: float
    started: float | None
    ended: float | None

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


@dataclass(frozen=True)
class Request:
    """A run that a schedule asks for."""

    job: str
    config: Mapping[str, Any] | str
    tags: Mapping[str, str]
    assets: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Location:
    """The code location: its jobs, which schedule starts which of them, and which jobs sensors start."""

    name: str
    repository: str
    jobs: frozenset[str]
    schedules: Mapping[str, str] = field(default_factory=dict)
    by_sensor: frozenset[str] = frozenset()


class Webserver:
    """`url` without a trailing slash. Use as an async context manager.

    `patience`: for so many seconds a call waits for a Dagster that is just starting. `is_ours`: whether it is the one
    that is meant, asked before each call.
    """

    def __init__(self, url: str, patience: float = 0.0, is_ours: Callable[[], bool] = lambda: True) -> None:
        self.url = url
        self._patience = patience
        self._is_ours = is_ours
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx.AsyncClient(
            timeout=timeout, trust_env=False, limits=httpx.Limits(max_connections=8), follow_redirects=False
        )

    async def __aenter__(self) -> Webserver:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def location(self, with_schedule: str) -> Location:
        """The location that defines this schedule."""
        found = (await self._ask(_LOCATIONS))["repositoriesOrError"]
        for node in found.get("nodes") or []:
            schedules = {s["name"]: s["pipelineName"] for s in node["schedules"]}
            if with_schedule in schedules:
                return Location(
                    name=node["location"]["name"],
                    repository=node["name"],
                    jobs=frozenset(job["name"] for job in node["pipelines"]),
                    schedules=schedules,
                    by_sensor=frozenset(t["pipelineName"] for s in node["sensors"] for t in s["targets"] or []),
                )
        raise Unreachable(
            f"Dagster at {self.url} has no schedule {with_schedule}: its code location isn't loaded. Its page"
            " Deployment says why. Nothing was started."
        )

    async def asked_for(self, location: Location, schedule: str, now: float) -> tuple[list[Request], str]:
        """What the schedule would start now, and its reason when that is nothing."""
        selector = {
            "repositoryLocationName": location.name, "repositoryName": location.repository, "scheduleName": schedule,
        }  # fmt: skip
        answer = (await self._ask(_DRY_RUN, selector=selector, now=now))["scheduleDryRun"]
        if answer["__typename"] != "DryRunInstigationTick":
            raise CannotStart(f"Dagster can't evaluate the schedule {schedule} ({_type(answer)}). Nothing was started.")
        result = answer["evaluationResult"]
        if result["error"]:
            raise _evaluation_failed(schedule, result["error"])
        requests = [
            Request(
                job=each["jobName"] or location.schedules[schedule],
                config=each["runConfigYaml"],
                tags={t["key"]: t["value"] for t in each["tags"] if t["key"] not in SCHEDULES_OWN},
                assets=each["assetSelection"],
            )
            for each in result["runRequests"] or []
        ]
        return requests, result["skipReason"] or "nothing is due, or runs that have not ended yet work on it"

    async def launch(self, location: Location, request: Request, mark: Mapping[str, str]) -> Run:
        """Queues a run. No other run has the tags of `mark`: by them it is found if the answer is lost."""
        tags = {**request.tags, **mark}
        parameters = {
            "selector": {
                "repositoryLocationName": location.name, "repositoryName": location.repository,
                "jobName": request.job, **({"assetSelection": request.assets} if request.assets else {}),
            },
            "runConfigData": request.config,
            "executionMetadata": {"tags": _listed(tags)},
        }  # fmt: skip
        try:
            answer = (await self._ask(_LAUNCH, parameters=parameters))["launchRun"]
        except Unreachable:
            await asyncio.sleep(1)
            found = await self.runs(tags=mark)
            if not found:
                raise
            return found[0]
        if answer["__typename"] != "LaunchRunSuccess":
            raise CannotStart(f"Dagster didn't start {request.job}: {_why(answer)}.")
        return _run(answer["run"])

    async def runs(self, **filters: Any) -> list[Run]:
        """Newest first, by the order in which the storage took them. Filters: job, tags, statuses, updated_after."""
        names = {"job": "pipelineName", "updated_after": "updatedAfter", "run_ids": "runIds"}
        chosen = {names.get(name, name): value for name, value in filters.items()}
        if "tags" in chosen:
            chosen["tags"] = _listed(chosen["tags"])
        answer = (await self._ask(_RUNS, filter=chosen, limit=MOST_RUNS))["runsOrError"]
        if answer["__typename"] != "Runs":
            raise Unreachable(f"Dagster can't list its runs ({_type(answer)}). Nothing was started.")
        return [_run(each) for each in answer["results"]]

    async def run(self, run_id: str) -> Run | None:
        found = await self.runs(run_ids=[run_id])
        return found[0] if found else None

    async def withdraw(self, run_id: str) -> None:
        """Ends a run that was queued a moment ago."""
        await self._ask(_TERMINATE, run=run_id)

    async def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        response = await self._post({"query": query, "variables": variables})
        try:
            answer = response.json()
            data, errors = answer.get("data"), answer.get("errors")
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
            raise self._unreachable(f"HTTP {response.status_code} and no JSON") from None
        if errors or not isinstance(data, dict):
            raise self._unreachable(f"HTTP {response.status_code}, a GraphQL error; its own log says which")
        return data

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        until = time.monotonic() + self._patience
        while True:
            if self._is_ours():
                try:
                    return await self._client.post(f"{self.url}/graphql", json=body)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    # Without a connection nothing was sent, so that nothing is done twice.
                    if not isinstance(error, httpx.ConnectError) or time.monotonic() > until:
                        raise self._unreachable(type(error).__name__) from None
            elif time.monotonic() > until:
                raise self._unreachable("the Dagster that this trigger started does not listen there yet")
            await asyncio.sleep(0.5)

    def _unreachable(self, why: str) -> Unreachable:
        return Unreachable(f"Dagster at {self.url} can't be reached ({why}).")


def _evaluation_failed(schedule: str, error: Mapping[str, Any]) -> OperatorError:
    for link in [error, *(each["error"] for each in error.get("errorChain") or [])]:
        if link["className"] in OUR_ERRORS:
            sentence = str(link["message"]).strip()
            _, _, text = sentence.partition(": ")
            return Unreachable(text or sentence)
    return CannotStart(f"The schedule {schedule} failed ({error['className']}); Dagster's log has the reason.")


def _why(answer: Mapping[str, Any]) -> str:
    if answer["__typename"] == "RunConfigValidationInvalid":
        return "its configuration lacks something, so it can only be started from the UI"
    if answer["__typename"] == "PipelineNotFoundError":
        return "there is no such job"
    return _type(answer)


def _type(answer: Mapping[str, Any]) -> str:
    return str(answer.get("className") or answer["__typename"])


def _listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _run(node: Mapping[str, Any]) -> Run:
    return Run(
        run_id=node["runId"],
        job=node["pipelineName"],
        status=node["status"],
        tags={tag["key"]: tag["value"] for tag in node["tags"]},
        created=node["creationTime"],
        started=node["startTime"],
        ended=node["endTime"],
    )


_RUN = "runId pipelineName status creationTime startTime endTime tags { key value }"
_LOCATIONS = """{ repositoriesOrError { __typename ... on RepositoryConnection { nodes {
  name location { name } pipelines { name }
  schedules { name pipelineName } sensors { name targets { pipelineName } } } } } }"""
_DRY_RUN = """mutation ($selector: ScheduleSelector!, $now: Float) {
  scheduleDryRun(selectorData: $selector, timestamp: $now) { __typename
    ... on PythonError { className }
    ... on DryRunInstigationTick { evaluationResult {
      skipReason
      runRequests { jobName runConfigYaml tags { key value } assetSelection { path } }
      error { className message errorChain { error { className message } } } } } } }"""
_LAUNCH = f"""mutation ($parameters: ExecutionParams!) {{ launchRun(executionParams: $parameters) {{ __typename
  ... on PythonError {{ className }}
  ... on LaunchRunSuccess {{ run {{ {_RUN} }} }} }} }}"""
_RUNS = f"""query ($filter: RunsFilter!, $limit: Int) {{ runsOrError(filter: $filter, limit: $limit) {{ __typename
  ... on PythonError {{ className }}
  ... on Runs {{ results {{ {_RUN} }} }} }} }}"""
_TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
