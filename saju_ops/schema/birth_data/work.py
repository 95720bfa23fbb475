"""What the job, its checks and `saju-ops keys check` do: opens the tables, and puts the parts together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.rows.engines.open import RowStore
from saju_ops.run_control import TO_THE_END, RunControl
from saju_ops.schema.birth_data.calculations import (
    CalculationDates,
    ReplaceResult,
    look_at_calculations,
    open_calculations,
    replace_dates_of_expired,
)
from saju_ops.schema.birth_data.encrypt import EncryptResult, EncryptRun, Options
from saju_ops.schema.birth_data.keys import Key
from saju_ops.schema.birth_data.look import BirthData, look_at_birth_data
from saju_ops.schema.birth_data.rows import SessionRows, open_sessions


@dataclass(frozen=True)
class BirthTables:
    """Where the births are. `zone` is the zone of times without one (expires_at), not of births."""

    url: sa.URL
    sessions: str
    zone: ZoneInfo

    @contextmanager
    def opened(self) -> Iterator[tuple[RowStore, RowStore | None]]:
        """The sessions, and the calculations where there is such a table. Raises Refused, OperatorError."""
        with open_sessions(self.url, self.sessions, self.zone) as sessions:
            calculations = open_calculations(self.url, self.zone)
            try:
                yield sessions, calculations
            finally:
                if calculations is not None:
                    calculations.close()


@dataclass(frozen=True)
class Found:
    """What is there."""

    sessions: BirthData
    calculations: CalculationDates


@dataclass
class Worked:
    """What a run did, and what is there after it."""

    encrypted: EncryptResult
    calculations: CalculationDates
    # None: it was not asked for.
    replaced: ReplaceResult | None = None

    @property
    def changed(self) -> int:
        return self.encrypted.changed + (self.replaced.replaced if self.replaced else 0)


def look(tables: BirthTables, keys: Sequence[Key], now: datetime) -> Found:
    """Reads only."""
    with tables.opened() as (sessions, calculations):
        found = look_at_birth_data(sessions, keys)
        return Found(found, look_at_calculations(calculations, sessions, keys, now))


def is_begun(tables: BirthTables) -> bool:
    """Whether somebody has had births encrypted here, after which a service finds NULL in the clear column."""
    with open_sessions(tables.url, tables.sessions, tables.zone) as sessions:
        return SessionRows(sessions).any_without_clear()


def work(
    tables: BirthTables,
    keys: Sequence[Key],
    options: Options,
    *,
    replace_dates: bool,
    now: datetime,
    require_dump: Callable[[], object],
    control: RunControl = TO_THE_END,
) -> Worked:
    """`require_dump` raises OperatorError where no proven dump younger than a day is there; it is called once, before
    the first row is changed. Raises Refused, Busy, ProofFailed, OperatorError."""
    is_there = False

    def require_once() -> None:
        nonlocal is_there
        if not is_there:
            require_dump()
            is_there = True

    with tables.opened() as (sessions, calculations):
        encrypted = EncryptRun(sessions, keys, options, require_once, control).run()
        replaced = None
        if replace_dates and calculations is not None and encrypted.finished:
            replaced = replace_dates_of_expired(
                calculations, sessions, keys, now=now, dry_run=options.dry_run, require_dump=require_once,
                control=control,
            )  # fmt: skip
        return Worked(encrypted, look_at_calculations(calculations, sessions, keys, now), replaced)
