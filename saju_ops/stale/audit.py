"""The audit of a run: its intended and actual changes, under BACKUP_URI, so that they can be put back.

Each part of up to 10,000 jobs has two files, each written once: `reconciled_jobs/2026/10/<run id>.part0001.json` before
the first change of the part (each job's intended status, and its transaction), and `<run id>.part0001.outcome.json`
after the last (what each transaction really changed). A killed run leaves a part without an outcome. Each of its
transactions was done whole or not at all; the rows themselves then show which. `<run id>.undone.json` says that a run
was put back.

The files name jobs by id, with statuses and counts: no folder, no person, no text.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, ConfigDict, with_config
from typing_extensions import TypedDict

from saju_ops.errors import ProofFailed, Refused, shown
from saju_ops.storage import folders
from saju_ops.storage.manifest_fields import STRICT, Instant, Size, Text, validated
from saju_ops.storage.open import AlreadyThere, Storage, StorageError
from saju_ops.storage.seal import Unsealed, read_bounded, read_sealed, require_seal, write_sealed

FOLDER = folders.RECONCILED_JOBS
FORMAT = 1
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Up to so many jobs are kept in memory (10 MB), more in a file without a name that ends with the process.
IN_MEMORY = 20_000
T = TypeVar("T")


# --- a job --------------------------------------------------------------------------------------------------


def key_to_json(key: Any) -> Any:
    """A job's id in a form from which the database's value can be read back."""
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return key
    if isinstance(key, UUID):
        return {"uuid": str(key)}
    if isinstance(key, Decimal):
        return {"number": str(key)}
    if isinstance(key, bytes):
        return {"hex": key.hex()}
    raise Refused(f"A job's id is a {type(key).__name__}, which can't be written down. Nothing was touched.")


def key_from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    readers: dict[str, Callable[[str], Any]] = {"uuid": UUID, "number": Decimal, "hex": bytes.fromhex}
    return readers[kind](text)


def key_shown(value: Any) -> str:
    """From `key_to_json`'s form."""
    return str(next(iter(value.values()))) if isinstance(value, dict) else str(value)


class StaleJob(NamedTuple):
    """An open job that hasn't moved, and its new status."""

    # As key_to_json gives it.
    key: Any
    status: str
    becomes: str
    folder: str | None
    # ISO, UTC.
    created: str
    moved: str
    files: int
    done: int

    @property
    def job_id(self) -> str:
        return key_shown(self.key)

    @property
    def partly_done(self) -> bool:
        return 0 < self.done < self.files


class Spool(Generic[T]):
    """Things in their order, written and then read as often as one likes; memory stays flat for millions."""

    def __init__(self) -> None:
        # Without a name, so that it is gone with the process, whatever ends it.
        self._file: Any = None
        self._chunks = 0
        self._last: list[T] = []

    def append(self, thing: T) -> None:
        self._last.append(thing)
        if len(self._last) >= IN_MEMORY:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the object)
            pickle.dump(self._last, self._file, pickle.HIGHEST_PROTOCOL)
            self._chunks += 1
            self._last = []

    def __len__(self) -> int:
        return self._chunks * IN_MEMORY + len(self._last)

    def __iter__(self) -> Iterator[T]:
        if self._file is not None:
            self._file.seek(0)
            for _ in range(self._chunks):
                yield from pickle.load(self._file)
        yield from self._last


# --- the files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """What one transaction changed: `changed` are keys in key_to_json's form."""

    batch: int
    changed: list[Any]


class Meant(NamedTuple):
    """A change as it was meant."""

    key: Any
    batch: int
    status: str
    becomes: str
    files: int
    done: int


@dataclass(frozen=True)
class Part:
    """A part of a run as the audit has it; `outcome` is None after a kill."""

    name: str
    run_id: str
    created_at: str
    database: str
    meant: list[Meant]
    outcome: list[Batch] | None


def check_run_id(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise Refused(
            f"The run id is {run_id!r}; it may be 1 to 64 letters, digits, - and _, as the run printed it. Nothing was"
            " touched."
        )
    return run_id


class Audit:
    """Writes the files of one run."""

    def __init__(self, storage: Storage, run_id: str, database: str, now: datetime, zone: ZoneInfo, hours: int) -> None:
        self._storage, self._run_id = storage, check_run_id(run_id)
        self._stem = f"{FOLDER}{now.astimezone(zone):%Y/%m}/{run_id}"
        self._about = {
            "format": FORMAT, "run_id": run_id, "database": database, "table": "analysis_jobs",
            "created_at": now.isoformat(), "hours": hours,
        }  # fmt: skip
        self._part = 0
        self.files: list[str] = []

    def intent(self, batches: Sequence[Sequence[StaleJob]]) -> None:
        """Before the first change of a part. Raises where it can't be written; then nothing is changed."""
        self._part += 1
        jobs = [
            Meant(j.key, number, j.status, j.becomes, j.files, j.done)._asdict()
            for number, batch in enumerate(batches)
            for j in batch
        ]
        self._write(f"{self._stem}.part{self._part:04}.json", {**self._about, "jobs": jobs})

    def outcome(self, batches: Sequence[Batch]) -> None:
        """After the last change of a part."""
        name = f"{self._stem}.part{self._part:04}.outcome.json"
        self._write(name, {**self._about, "batches": [asdict(b) for b in batches]})

    def _write(self, name: str, content: Any) -> None:
        write_json(self._storage, name, content)
        self.files.append(self._storage.location(name))


def write_json(storage: Storage, name: str, content: Any) -> None:
    try:
        write_sealed(storage, name, content, indent=None)
    except OSError as error:
        raise StorageError(f"{storage.location(name)} can't be written ({error.strerror or error}).") from error


def parts_of(storage: Storage, run_id: str) -> list[Part]:
    """The parts of a run in their order. Raises Refused for a run that changed nothing or is unknown."""
    check_run_id(run_id)
    names = [n for n in storage.names(FOLDER) if n.rpartition("/")[2].startswith(f"{run_id}.")]
    if any(n.endswith(f"/{run_id}.undone.json") for n in names):
        raise Refused(f"The run {run_id} was put back already. Nothing was touched.")
    found = [_part(storage, n, set(names)) for n in sorted(names) if _is_intent(n)]
    if not found:
        raise Refused(
            f"There is no audit file of a run {run_id} under {storage.location(FOLDER[:-1])}: it changed no job, or"
            " BACKUP_URI is another one. Nothing was touched."
        )
    return found


@dataclass(frozen=True)
class LaterRuns:
    """Jobs, by `key_shown`, that runs begun since then changed, and those that a killed one may have changed."""

    changed: set[str]
    perhaps: set[str]


def later_runs(storage: Storage, run_id: str, since: str) -> LaterRuns:
    names = list(storage.names(FOLDER))
    # A month of slack: folders are named in TIMEZONE, `since` is in UTC.
    first = _month_before(since[:7].replace("-", "/"))
    found = LaterRuns(set(), set())
    for name in names:
        own = name.rpartition("/")[2].startswith(f"{run_id}.")
        if own or not _is_intent(name) or name[len(FOLDER) :][:7] < first:
            continue
        try:
            part = _part(storage, name, set(names))
        except Unsealed:
            # One of before the key was set is in no other run's way.
            if _claimed_time(storage, name) < since:
                continue
            raise
        if part.created_at < since:
            continue
        with_outcome = {b.batch for b in part.outcome or []}
        found.changed.update(key_shown(k) for b in part.outcome or [] for k in b.changed)
        found.perhaps.update(key_shown(m.key) for m in part.meant if m.batch not in with_outcome)
    return found


def _claimed_time(storage: Storage, name: str) -> str:
    """The creation time in an unsealed audit file. A person who could make it look older could delete it as well."""
    raw = require_seal(read_bounded(storage, name), name)
    return str(validated(_Intent, raw, shown(name))["created_at"])


def mark_undone(storage: Storage, part: Part, content: dict[str, Any]) -> str:
    name = f"{part.name.rpartition('/')[0]}/{part.run_id}.undone.json"
    with suppress(AlreadyThere):
        write_json(storage, name, {"format": FORMAT, "run_id": part.run_id, **content})
    return storage.location(name)


def _month_before(month: str) -> str:
    year, number = int(month[:4]), int(month[5:7])
    return f"{year - 1}/12" if number == 1 else f"{year}/{number - 1:02}"


def _is_intent(name: str) -> bool:
    return re.search(r"\.part\d{4,}\.json$", name) is not None


def _part(storage: Storage, name: str, names: set[str]) -> Part:
    raw = _read(storage, name, _Intent)
    outcome_name = f"{name.removesuffix('.json')}.outcome.json"
    outcome = None
    if outcome_name in names:
        outcome = [Batch(**b) for b in _read(storage, outcome_name, _Outcome)["batches"]]
    meant = [Meant(**m) for m in raw["jobs"]]
    return Part(name, raw["run_id"], raw["created_at"], raw["database"], meant, outcome)


def _read(storage: Storage, name: str, form: Any) -> Any:
    try:
        raw = read_sealed(storage, name)
        if raw.get("format") == FORMAT:
            return validated(form, raw, shown(name))
    except Unsealed:
        raise Unsealed(
            f"{shown(name)} is not sealed by a key of this installation: whoever can write into the store may have made"
            " it. Nothing was touched. For a run that you know, `saju-ops reconcile-stale-jobs --undo` has"
            " --accept-unsealed."
        ) from None
    except ProofFailed as error:
        raise ProofFailed(f"{shown(name)} is not an audit file that is whole. Nothing was touched. {error}") from None
    raise ProofFailed(f"{shown(name)} is not an audit file that this version can read. Nothing was touched.")


def _readable_key(value: Any) -> Any:
    """A job's id that `key_from_json` takes."""
    if type(value) is int or type(value) is str:
        return value
    if type(value) is not dict or len(value) != 1 or not all(type(v) is str for v in value.values()):
        raise ValueError("no id")
    try:
        key_from_json(value)
    except (KeyError, ArithmeticError):
        raise ValueError("no id") from None
    return value


_Key = Annotated[Any, AfterValidator(_readable_key)]


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Job(TypedDict):
    key: _Key
    batch: Size
    status: Text
    becomes: Text
    files: Size
    done: Size


@with_config(STRICT)
class _Intent(TypedDict):
    run_id: Text
    created_at: Instant
    database: Text
    jobs: list[_Job]


@with_config(ConfigDict(strict=True, extra="forbid"))
class _Batch(TypedDict):
    batch: Size
    changed: list[_Key]


@with_config(STRICT)
class _Outcome(TypedDict):
    batches: list[_Batch]
