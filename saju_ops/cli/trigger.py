"""`saju-ops serve-trigger`: the clean-up by a call over HTTP, for hosts without cron."""

from __future__ import annotations

import os

import click

from saju_ops.bounds import ListeningPort, bounds_of
from saju_ops.errors import OperatorError
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings

DEFAULT_PORT = 8080
PORTS = bounds_of(ListeningPort)
PORT = click.IntRange(int(PORTS.least), int(PORTS.most))


@click.command("serve-trigger")
@click.option("--host", default=None, help="Address to listen on. Default: TRIGGER_HOST, 127.0.0.1.")
@click.option("--port", type=PORT, default=None, help="Default: TRIGGER_PORT, PORT, 8080.")
@click.option(
    "--with-dagster", is_flag=True, help="Also start Dagster's UI and daemon, on 127.0.0.1, as `saju-ops dev`."
)
def serve_trigger(host: str | None, port: int | None, with_dagster: bool) -> None:
    """Starts archive and purge when it is called over HTTP, through Dagster at DAGSTER_WEBSERVER_URL."""
    from saju_ops.trigger.server import serve

    settings = load_settings()
    chosen = _port(settings) if port is None else port
    serve(
        settings,
        host or settings.trigger_host,
        chosen,
        lambda text: click.echo(text, err=True),
        with_dagster=with_dagster,
    )


def _port(settings: Settings) -> int:
    """TRIGGER_PORT; else PORT, by which hosts with one web process say where they look for it."""
    if settings.trigger_port is not None:
        return settings.trigger_port
    given = os.environ.get("PORT", "").strip()
    if not given:
        return DEFAULT_PORT
    if given.isascii() and given.isdigit() and int(given) in PORTS:
        return int(given)
    raise OperatorError(f"PORT holds {given!r}; it may hold a port {PORTS}. Nothing was started.")
