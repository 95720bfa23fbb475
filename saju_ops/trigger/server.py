"""uvicorn around the trigger's application: strict HTTP/1.1, and logs in which no address is written."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from saju_ops.errors import OperatorError
from saju_ops.settings.settings import Settings
from saju_ops.trigger.app import HEADERS, trigger_app
from saju_ops.trigger.beside import DagsterBeside, port_beside

HEAD_SECONDS = 5.0
HEAD_BYTES = 16 * 1024
# Connections at once; more are answered with 503. Each needs a file descriptor.
CONNECTIONS = 3000
STOP_SECONDS = 20
# Dagster needs some 15 s to start. A host that was woken by the call starts both, and schedulers wait 30 s.
START_PATIENCE = 25.0


class _Protocol(H11Protocol):
    """uvicorn's own, which waits for ever for a request's head and answers a broken one with plain text."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        body = json.dumps({"error": "That was no HTTP/1.1 request."}).encode()
        headers = [*HEADERS.items(), ("content-type", "application/json"), ("content-length", str(len(body)))]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def serve(settings: Settings, host: str, port: int, say: Callable[[str], None], *, with_dagster: bool = False) -> None:
    """Serves until a signal stops it (SIGTERM, SIGINT); it then finishes calls that have begun."""
    if settings.cleanup_trigger_token is None:
        raise OperatorError(
            "CLEANUP_TRIGGER_TOKEN is not set, so anybody could start a purge. Set it to at least 32 characters, such"
            " as `openssl rand -hex 32` prints. Nothing was started."
        )
    beside = DagsterBeside(port_beside(settings)) if with_dagster else None
    listening = _listen(host, port)
    _refuse_itself(settings, host, listening.getsockname()[1])
    _log_to_stderr()
    _raise_file_limit()
    patience = START_PATIENCE if with_dagster else 0.0
    token = settings.cleanup_trigger_token.get_secret_value()
    server = uvicorn.Server(configuration(settings, token, patience, beside.answers if beside else lambda: True))
    bound = listening.getsockname()[1]
    say(f"Listening on http://{_bracketed(host)}:{bound} for Dagster at {settings.dagster_webserver_url}.")
    if not _is_loopback(host):
        say("Others can reach this address: put a proxy with TLS in front, or the token travels in the clear.")
    # uvicorn sends itself the signal again once it has finished: to be stopped is no failure. It replaces these
    # handlers when it runs, and looks at should_exit before it begins.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    if beside is None:
        server.run(sockets=[listening])
        return
    with beside.running(ended=lambda: setattr(server, "should_exit", True)) as dagster:
        server.run(sockets=[listening])
        status = dagster.poll()
    if status is not None:
        raise OperatorError(f"Dagster ended by itself (status {status}), so the trigger ended too. Start it again.")


def configuration(
    settings: Settings, token: str, patience: float = 0.0, is_ours: Callable[[], bool] = lambda: True
) -> uvicorn.Config:
    """Trusts X-Forwarded-Proto of everybody, which only decides how the caller's own answer names this address."""
    return uvicorn.Config(
        trigger_app(settings, token, patience, is_ours), http=_Protocol, ws="none", loop="asyncio", lifespan="on",
        log_config=None, access_log=False, server_header=False, forwarded_allow_ips="*", limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEAD_BYTES, timeout_graceful_shutdown=STOP_SECONDS,
    )  # fmt: skip


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OperatorError(
            f"{host}:{port} can't be listened on ({why}); choose another with TRIGGER_HOST and TRIGGER_PORT."
        ) from None


def _refuse_itself(settings: Settings, host: str, port: int) -> None:
    """The trigger on Dagster's own port would ask itself, for ever in vain."""
    url = urlsplit(settings.dagster_webserver_url)
    dagster_port = url.port or (443 if url.scheme == "https" else 80)
    everywhere = host in ("0.0.0.0", "::", "")
    here = url.hostname == host or (_is_loopback(url.hostname or "") and (_is_loopback(host) or everywhere))
    if here and port == dagster_port:
        raise OperatorError(
            f"The trigger can't have the port {port}: DAGSTER_WEBSERVER_URL ({settings.dagster_webserver_url}) says"
            " that it is Dagster's. Name another one there, or in TRIGGER_PORT for the trigger (without it, PORT is"
            " used). Nothing was started."
        )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("saju_ops.trigger").setLevel(logging.INFO)
    # httpx logs every request at INFO, uvicorn warns of every broken request: anybody could fill the disk with those.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def _raise_file_limit() -> None:
    """A thousand calls at once are a thousand connections; the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 200 if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS + 200)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
