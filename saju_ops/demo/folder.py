"""The demo's folder: made whole or not at all, and never another one's."""

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Table

MARKER = ".saju_ops_demo"
Progress = Callable[[str, int, int], None]
Row = dict[str, Any]
Rows = dict[Table, list[Row]]
_T = TypeVar("_T")
_MADE_BY = "saju-ops demo"


class DemoFolderError(Exception):
    """The folder is not the demo's to use; nothing in it was changed."""


def _read_marker(folder: Path) -> dict[str, Any]:
    """What the marker says, or nothing for a folder without one or with somebody else's file of that name."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) and marker.get("made_by") == _MADE_BY else {}


def _write_marker(folder: Path, **more: Any) -> None:
    note = "Everything in this folder was made by the demo of saju_ops, which may replace or delete it."
    with (folder / MARKER).open("w", encoding="utf-8") as file:
        json.dump({"made_by": _MADE_BY, "note": note, **more}, file, ensure_ascii=False, indent=1)
        file.flush()
        # A marker lost in a power cut would turn our own folder into a foreign one.
        os.fsync(file.fileno())


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists() or _read_marker(folder):
        return
    if not folder.is_dir():
        raise DemoFolderError(f"{folder} is not a folder. Nothing was changed; give the demo a folder of its own.")
    if any(folder.iterdir()):
        raise DemoFolderError(
            f"{folder} is not empty and was not made by the demo (it has no {MARKER} file of its own). "
            "Nothing in it was changed; give the demo a new or an empty folder."
        )


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A marked and locked folder beside `folder` to build in; gone at the end, whatever happened."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    building = folder.parent / f".{folder.name}.saju_ops_demo-{os.getpid()}"
    building.mkdir()
    try:
        _write_marker(building, complete=False)
        # The lock shows a later run that this one is alive. The kernel drops it when a process is killed.
        lock = os.open(building, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield building
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Delete what killed runs for the same folder left: marked by us, and locked by no living process."""
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.saju_ops_demo-*"):
        if leftover.is_symlink() or not _read_marker(leftover):
            continue
        lock = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            raise DemoFolderError(
                f"Another run is making the demo in {folder}. Nothing was changed; wait for it to end."
            ) from None
        finally:
            os.close(lock)


def _put_in_place(building: Path, folder: Path) -> None:
    """Renames the finished service to its name, and deletes the folder that had this name before."""
    _refuse_foreign(folder)
    old = building.with_name(building.name + "-old")
    replaces = bool(_read_marker(folder))
    if replaces:
        folder.rename(old)
    try:
        # An empty folder is replaced by this; a folder that was filled meanwhile makes it fail.
        building.rename(folder)
    except OSError as error:
        if replaces:
            old.rename(folder)
        raise DemoFolderError(
            f"The finished demo could not be put at {folder}: {error}. What stood there was left as it was; "
            "close what uses the folder, or give the demo another one."
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def _chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
