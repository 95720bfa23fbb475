"""The trigger as an ASGI application: addresses, answers and errors. Everything it says is JSON.

POST and GET `/run-cleanup` start the clean-up, GET `/run-cleanup/<run id>` reports its state; `/jobs/<name>` likewise.
`/healthz` needs no token.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saju_ops.settings.settings import Settings
from saju_ops.tags import RANGE_END, RANGE_START
from saju_ops.trigger.guard import Guard, Refusal
from saju_ops.trigger.start import Group, NotAllowed, Starter, TooMany
from saju_ops.trigger.state import ARCHIVE_JOB, PURGE_JOB, latest_per_range
from saju_ops.trigger.webserver import RETRY_SECONDS, CannotStart, Run, Unreachable, Webserver

LOG = logging.getLogger("saju_ops.trigger")
# A run's id or a clean-up's name; a job's name.
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z:.\-]{0,79}")
_PATH = re.compile(r"[!-~]+")
_HOST = re.compile(r"[0-9A-Za-z.\-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
# Calls under way; the server behind this gives up somewhat later, in plain text.
AT_ONCE = 2500
AGAIN = f"Call again in {RETRY_SECONDS} seconds. What was started before continues, and the call then joins it."
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # One call, one connection: nothing can be hidden behind a first request.
    "connection": "close",
}


def trigger_app(
    settings: Settings, token: str, patience: float = 0.0, is_ours: Callable[[], bool] = lambda: True
) -> ASGIApp:
    """`token` is CLEANUP_TRIGGER_TOKEN, which is set; `patience`: seconds that Dagster may take to come up. `is_ours`:
    whether the server at Dagster's address is the intended one."""
    webserver = Webserver(settings.dagster_webserver_url, patience, is_ours)
    answers = _Answers(Starter(webserver, settings.trigger_jobs), settings.ui_url)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with webserver:
            yield

    app = Starlette(
        routes=[
            _route("/healthz", answers.health, "GET", "HEAD"),
            _route("/run-cleanup", answers.start_cleanup, "GET", "POST"),
            _route("/run-cleanup/{run_id}", answers.cleanup, "GET"),
            _route("/jobs/{job}", answers.start_job, "GET", "POST"),
            _route("/jobs/{job}/{run_id}", answers.job, "GET"),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _failed},
    )
    # Only the addresses above: none is corrected, so that none is answered that was not meant.
    app.router.redirect_slashes = False
    guard = Guard(token, token_in_url=settings.trigger_token_in_url, calls_per_minute=settings.trigger_calls_per_minute)
    return _Outer(app, guard)


def _route(path: str, endpoint: Any, *methods: str) -> Route:
    route = Route(path, endpoint, methods=list(methods))
    # Starlette answers HEAD wherever it answers GET; here a GET starts something.
    route.methods = set(methods)
    return route


class _Outer:
    """Around everything: the guard, the headers, one log line per call, and no exception that gets out."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = dict(message["headers"])
                headers.update((name.encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] = list(headers.items())
            await send(message)

        self._under_way += 1
        try:
            await self._guarded(scope, receive, answer)
        except ClientDisconnect:
            return
        except Exception:
            LOG.exception("A call failed in a way that nobody foresaw.")
            if not status:
                await _failed()(scope, receive, answer)
        finally:
            self._under_way -= 1
        if scope["path"] != "/healthz" and status != 429:
            LOG.info("%s %s %d %.2f s", *_said(scope), status, time.monotonic() - began)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way > AT_ONCE:
            full = _error(503, "Too many calls at the same moment; try again in 5 seconds.", {"retry-after": "5"})
            await full(scope, receive, send)
            return
        if scope["path"] != "/healthz":
            try:
                await self._guard.check(Request(scope, receive))
            except Refusal as refusal:
                await _error(refusal.status, str(refusal), refusal.headers)(scope, receive, send)
                return
        # Starlette's patterns let a line's end follow an address.
        if not _PATH.fullmatch(scope["path"]):
            scope = {**scope, "path": "/-"}
        await self._app(scope, receive, send)


def _said(scope: Scope) -> tuple[str, str]:
    """Method and route from the table above. The real request may hold a token in the wrong place."""
    method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
    route = scope.get("route")
    return method, route.path if isinstance(route, Route) else "-"


class _Answers:
    def __init__(self, starter: Starter, ui_url: str) -> None:
        self._starter, self._ui = starter, ui_url

    async def health(self, _: Request) -> Response:
        """That this process answers. A host restarts it where it doesn't; Dagster's health is not its own."""
        return JSONResponse({"status": "ok"})

    async def start_cleanup(self, request: Request) -> Response:
        return await self._answer(request, self._starter.start_cleanup(), "run-cleanup")

    async def start_job(self, request: Request) -> Response:
        job = request.path_params["job"]
        return await self._answer(request, self._starter.start_job(job), f"jobs/{job}")

    async def cleanup(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        if not _ID.fullmatch(run_id):
            return _no_such_run()
        return await self._answer(request, self._starter.cleanup_of(run_id), "run-cleanup")

    async def job(self, request: Request) -> Response:
        job, run_id = request.path_params["job"], request.path_params["run_id"]
        if not _ID.fullmatch(run_id):
            return _no_such_run()
        return await self._answer(request, self._starter.job_of(job, run_id), f"jobs/{job}")

    async def _answer(self, request: Request, work: Any, path: str) -> Response:
        try:
            group: Group | None = await work
        except Unreachable as error:
            return _error(503, f"{error} {AGAIN}", {"retry-after": str(RETRY_SECONDS)})
        except NotAllowed as error:
            return _error(403, str(error))
        except CannotStart as error:
            return _error(502, str(error))
        except TooMany as error:
            return _error(429, str(error), {"retry-after": str(error.seconds)})
        if group is None:
            return _no_such_run()
        body = self._body(group, f"{_base(request)}/{path}")
        headers = {"location": body["state_url"]} if group.started else None
        return JSONResponse(body, 202 if group.started else 200, headers)

    def _body(self, group: Group, base: str) -> dict[str, Any]:
        archives = latest_per_range([r for r in group.runs if r.job == ARCHIVE_JOB])
        runs = archives if archives and base.endswith("/run-cleanup") else [r for r in group.runs if r.job != PURGE_JOB]
        runs = runs or list(group.runs)
        purge = next((r for r in group.runs if r.job == PURGE_JOB and r not in runs), None)
        first = runs[0].run_id if runs else None
        return {
            "run_id": first,
            "name": group.name,
            "started": group.started,
            "state": group.state.state,
            "done": group.state.done,
            "message": group.state.message,
            "state_url": f"{base}/{first}" if first else None,
            "link": self._link(first) if first else None,
            "runs": [self._run(run) for run in runs],
            "purge": self._run(purge) if purge else None,
        }

    def _run(self, run: Run) -> dict[str, Any]:
        first, last = run.tags.get(RANGE_START), run.tags.get(RANGE_END)
        return {
            "run_id": run.run_id,
            "job": run.job,
            "status": run.status,
            "days": f"{first}...{last}" if first and last else None,
            "link": self._link(run.run_id),
        }

    def _link(self, run_id: str) -> str:
        return f"{self._ui}/runs/{run_id}"


def _base(request: Request) -> str:
    """How the caller reached this; nothing where its Host header can't be part of an address."""
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return ""
    return f"{request.scope['scheme']}://{hosts[0]}"


def _no_such_run() -> Response:
    return _error(404, "Dagster has no such run here.")


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)


def _failed(*_: object) -> Response:
    return _error(500, "The trigger failed; its log has the reason. Look at the runs before you call again.")


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {
        404: "There is no such address; there are /run-cleanup, /jobs/<name> and /healthz.",
        405: "This address can't be called so; the header Allow says how.",
    }
    sentence = sentences.get(error.status_code, str(error.detail))
    return _error(error.status_code, sentence, dict(error.headers or {}))
