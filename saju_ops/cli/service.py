"""`saju-ops demo`, `dev` and `status`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option("--folder", default=".demo", show_default=True, help="Where the demo lives; made if it isn't there.")
@click.option("--ui", is_flag=True, help="Open the Dagster UI on the demo, on 127.0.0.1:3000, after it ran.")
def demo(folder: str, ui: bool) -> None:
    """Makes a small realistic service and runs the main job on it. Touches nothing else."""
    from saju_ops.demo.run import open_ui, run_demo
    from saju_ops.dev import HOST, PORT
    from saju_ops.processes import require_free

    if ui:
        require_free(HOST, PORT, "`saju-ops dev --port`")
    run_demo(Path(folder), echo=click.echo)
    if ui:
        open_ui(Path(folder))


@click.command()
@click.option("--port", default=3000, show_default=True, help="The UI's port on 127.0.0.1.")
def dev(port: int) -> None:
    """Starts the Dagster UI and daemon, with their history in .dagster_home."""
    from saju_ops.dev import start_dev

    start_dev(Path(".dagster_home"), port)


@click.command()
def status() -> None:
    """Says for each setting, database and folder whether it is usable, and why not."""
    from saju_ops.cli.status_report import report

    lines, usable = report()
    for line in lines:
        click.echo(line)
    sys.exit(0 if usable else 1)
