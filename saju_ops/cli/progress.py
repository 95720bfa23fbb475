"""How far a command is: a bar on a terminal, plain lines elsewhere (pipes, cron, CI).

Promises: a bar is written to standard error alone and removed at the end, so what a script reads on standard output is
the same with and without a terminal. Where standard error is no terminal, no control character is written, and a step
is a line only every ten seconds, unless the command wants each.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

# Seconds between two plain lines that say how far something is.
LINE_SECONDS = 10.0
# Characters of the text beside a bar.
LONGEST = 60


class Progress(Protocol):
    def step(self, text: str, done: int = 0, total: int | None = None, *, always: bool = False) -> None:
        """How far it is now: rows, days or files, of how many where that is known. Where there is no bar, `always`
        makes each step a line."""

    def line(self, text: str) -> None:
        """What is to stay on the terminal or in the log."""


def to_stdout(text: str) -> None:
    click.echo(text)


def to_stderr(text: str) -> None:
    click.echo(text, err=True)


def is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


@contextmanager
def progress(title: str, say: Callable[[str], None] = to_stdout) -> Iterator[Progress]:
    """`say` writes the plain lines, and those that stay beside a bar."""
    if not is_terminal():
        yield _Lines(say)
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn("line"), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
        TaskProgressColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Bars(
        *columns, console=Console(file=sys.stderr), transient=True,
        # Where both are the same terminal, what is printed meanwhile stays above the bar.
        redirect_stdout=sys.stdout.isatty(), redirect_stderr=True,
    ) as bars:  # fmt: skip
        yield _Bar(bars, bars.add_task(title, total=None), say)


class _Bar:
    def __init__(self, bars: Any, task: Any, say: Callable[[str], None]) -> None:
        self._bars, self._task, self._say = bars, task, say

    def step(self, text: str, done: int = 0, total: int | None = None, *, always: bool = False) -> None:
        self._bars.update(self._task, description=_one_line(text), completed=done, total=total)

    def line(self, text: str) -> None:
        self._say(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST]


class _Lines:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, time.monotonic()

    def step(self, text: str, done: int = 0, total: int | None = None, *, always: bool = False) -> None:
        if always or time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            self._say(text)

    def line(self, text: str) -> None:
        self._say(text)
