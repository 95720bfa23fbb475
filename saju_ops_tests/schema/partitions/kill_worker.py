"""A rotation, or a conversion there and back, in a process of its own that can be killed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from multiprocessing.connection import Connection
from typing import Any
from zoneinfo import ZoneInfo

from saju_ops.rows.days import Day
from saju_ops.rows.engines.open import open_log_store
from saju_ops.schema.partitions.convert import convert, convert_back
from saju_ops.schema.partitions.rotate import rotate
from saju_ops.storage.open import open_storage
from saju_ops_tests.archive.fault_worker import Point, Process, _die_with_the_parent, _plant
from saju_ops_tests.archive.scene import NOW, SEOUL


def _rotate(url: str, folder: str) -> None:
    with open_log_store(url, "conversation_logs", ZoneInfo("UTC")) as store:
        rotate(
            store, open_storage(folder), now=NOW, first_day=Day(date(2026, 1, 1), SEOUL), retention_days=30, ahead=3,
            dry_run=False, wait=30.0, snapshot_wait=10.0,
        )  # fmt: skip


def _convert(url: str, _folder: str) -> None:
    with open_log_store(url, "conversation_logs", ZoneInfo("UTC")) as store:
        convert(store, now=NOW, ahead=3, zone=SEOUL, way="alter", wait=60.0)


def _convert_online(url: str, _folder: str) -> None:
    with open_log_store(url, "conversation_logs", ZoneInfo("UTC")) as store:
        convert(store, now=NOW, ahead=3, zone=SEOUL, way="pt-online-schema-change", wait=60.0)


def _back(url: str, _folder: str) -> None:
    with open_log_store(url, "conversation_logs", ZoneInfo("UTC")) as store:
        convert_back(store, wait=60.0)


WORK: dict[str, Callable[[str, str], None]] = {
    "rotate": _rotate, "convert": _convert, "convert online": _convert_online, "back": _back,
}  # fmt: skip


def _child(what: str, url: str, folder: str, point: Point | None, pipe: Connection) -> None:
    _die_with_the_parent()
    if point is not None:
        _plant(point, pipe)
    pipe.send("started")
    try:
        WORK[what](url, folder)
        pipe.send("")
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}")


def start(what: str, url: str, folder: str, point: Point | None = None) -> Process:
    return Process(_child, what, url, folder, point)


def killed_at(what: str, url: str, folder: str, point: Point) -> bool:
    """False where the run never came to the point."""
    with start(what, url, folder, point) as process:
        try:
            said: Any = process.receive(120)
        except EOFError:
            return True
    assert not said, said
    return False


def killed_after(what: str, url: str, folder: str, seconds: float) -> bool:
    with start(what, url, folder) as process:
        return not process.pipe.poll(seconds)
