"""saju_calculations.birth_datetime: the same birth in the clear, which the service needs there (NOT NULL, unique).

Counts what stays in the clear. For sessions that have expired a false moment can take its place: one that is computed
from the newest key and the row's own key, so that the same row gets the same moment again and a second run finds
nothing to do. It is from 1950 to 2009 and at a second that isn't 0, as no entered birth is. The lunar date (lunar_year,
lunar_month, lunar_day), which is the birth in other words, becomes NULL. The four pillars stay, since the service's
analyses are of them: they give a birth away to within two hours in sixty years.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from saju_ops.archive.deleting import is_lock_conflict
from saju_ops.database.connect import error_text
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.expired.expiry import Expiry
from saju_ops.expired.sessions import last_use
from saju_ops.rows.engines.interface import NoSuchTable
from saju_ops.rows.engines.open import RowStore, open_row_store
from saju_ops.run_control import TO_THE_END, RunControl
from saju_ops.schema.birth_data.keys import Key, required_keys
from saju_ops.schema.birth_data.rows import CHUNK, plain
from saju_ops.schema.birth_data.swap import Identity, Swap, Swaps
from saju_ops.schema.birth_data.tokens import MOMENT
from saju_ops.words import counted

TABLE, SESSION, LUNAR = "saju_calculations", "session_id", "is_lunar"
LUNAR_DATE = ("lunar_year", "lunar_month", "lunar_day")
FIRST, SPAN = datetime(1950, 1, 1), timedelta(days=60 * 365 + 15)  # noqa: DTZ001 (a wall clock)
# Moments that a row may get: of two rows of a session with the same one, the second takes the next.
TRIES = 4
LOCK, LOCK_WAIT = "the birth dates", 10.0


@dataclass
class CalculationDates:
    """How many rows of saju_calculations hold what."""

    # False: the database has no such table.
    there: bool = True
    rows: int = 0
    # With the birth in the clear.
    in_the_clear: int = 0
    # How many of those are of sessions that expired, and can be replaced.
    of_expired: int = 0
    # With a false moment in its place.
    replaced: int = 0


@dataclass
class ReplaceResult:
    dry_run: bool
    replaced: int = 0
    left: int = 0
    seconds: float = 0.0
    stopped: str = "finished"


def open_calculations(url: sa.URL, zone: ZoneInfo) -> RowStore | None:
    """None where the database has no such table, or one without the columns that this is about."""
    try:
        store = open_row_store(url, TABLE, zone)
    except NoSuchTable:
        return None
    if {MOMENT, SESSION} <= {*store.table.names}:
        return store
    store.close()
    return None


def look_at_calculations(
    calculations: RowStore | None, sessions: RowStore, keys: Sequence[Key], now: datetime
) -> CalculationDates:
    """Reads only. Without keys no moment is known to be a false one."""
    if calculations is None:
        return CalculationDates(there=False)
    found = CalculationDates()
    count = sa.select(sa.func.count(calculations.col(MOMENT)))
    found.rows = found.in_the_clear = int(calculations.connection.execute(count).scalar_one())
    calculations.end_read()
    for rows in _Expired(calculations, sessions, now).chunks():
        false = sum(is_false(moment, identity, keys) for identity, moment in rows)
        found.replaced += false
        found.of_expired += len(rows) - false
    found.in_the_clear -= found.replaced
    return found


def false_moments(key: Key, identity: Identity) -> list[datetime]:
    """What may be in the place of a row's birth."""
    name = "/".join(map(str, identity))
    found = []
    for number in range(TRIES):
        drawn = int.from_bytes(key.derived(f"saju_ops: {TABLE}.{MOMENT} of {name}, {number}".encode())[:8], "big")
        minute, second = divmod(drawn % (SPAN // timedelta(minutes=1) * 59), 59)
        found.append(FIRST + timedelta(minutes=minute, seconds=second + 1))
    return found


def is_false(moment: str, identity: Identity, keys: Sequence[Key]) -> bool:
    return any(moment[:19] == str(each) for key in keys for each in false_moments(key, identity))


class _Expired:
    """The rows of sessions that have expired, in the order of the calculations' key."""

    def __init__(self, calculations: RowStore, sessions: RowStore, now: datetime) -> None:
        self._calculations, self._swaps = calculations, Swaps(calculations)
        self._expiry = Expiry(sessions, now, last_use(sessions))
        self._joined = calculations.from_.join(
            sessions.from_, calculations.col(SESSION) == sessions.col(SESSION)
        )  # fmt: skip

    def chunks(self, size: int = CHUNK) -> Iterator[list[tuple[Identity, str]]]:
        after: Identity | None = None
        key = [self._calculations.col(name) for name in self._calculations.table.key]
        while True:
            cells = [*key, self._swaps.shown(MOMENT), *self._expiry.shown()]
            query = sa.select(*(c.label(f"saju_{i}") for i, c in enumerate(cells))).select_from(self._joined)
            query = query.where(self._calculations.col(MOMENT).is_not(None), *self._expiry.conditions())
            if after is not None:
                query = query.where(self._swaps.beyond(after))
            rows = [tuple(map(plain, row)) for row in
                    self._calculations.connection.execute(query.order_by(*key).limit(size))]  # fmt: skip
            self._calculations.end_read()
            if not rows:
                return
            after = rows[-1][: len(key)]
            yield [(row[: len(key)], row[len(key)]) for row in rows
                   if isinstance(row[len(key)], str) and self._expiry.is_past(row[len(key) + 1 :])]  # fmt: skip


def replace_dates_of_expired(
    calculations: RowStore,
    sessions: RowStore,
    keys: Sequence[Key],
    *,
    now: datetime,
    dry_run: bool,
    require_dump: Callable[[], None],
    control: RunControl = TO_THE_END,
) -> ReplaceResult:
    """Puts false moments in the place of births of sessions that expired before `now`. The true one is gone from
    there, and is in the session's token alone. Raises Refused, Busy, ProofFailed."""
    required_keys(keys)
    result, began = ReplaceResult(dry_run), control.clock()
    swaps = Swaps(calculations)
    lunar = [name for name in LUNAR_DATE if name in calculations.table.names]
    calculations.wait_briefly()
    with calculations.lock(LOCK, LOCK_WAIT):
        for rows in _Expired(calculations, sessions, now).chunks():
            if reason := control.should_stop():
                result.stopped = reason
                break
            true = [(identity, moment) for identity, moment in rows if not is_false(moment, identity, keys)]
            if dry_run or not true:
                result.replaced += len(true)
                continue
            require_dump()
            for number in range(TRIES):
                true = _replaced(calculations, swaps, true, keys[0], number, lunar, result)
            result.left += len(true)
    result.seconds = control.clock() - began
    return result


def _replaced(
    calculations: RowStore, swaps: Swaps, rows: list[tuple[Identity, str]], key: Key, number: int,
    lunar: Sequence[str], result: ReplaceResult,
) -> list[tuple[Identity, str]]:  # fmt: skip
    """Writes each row's moment of that number. Returns the rows that are still to do: in halves, down to the one row
    whose moment its session has already."""
    if not rows:
        return []
    made = [(identity, moment, str(false_moments(key, identity)[number])) for identity, moment in rows]
    changes = [Swap(identity, (moment,), (false, *[None] * len(lunar))) for identity, moment, false in made]
    try:
        with calculations.transaction():
            count = swaps.apply(changes, [MOMENT], [MOMENT, *lunar])
            query = sa.select(*(calculations.col(name) for name in calculations.table.key), swaps.shown(MOMENT))
            query = query.where(swaps.one_of([identity for identity, _ in rows]))
            there = {tuple(map(plain, row[:-1])): str(plain(row[-1]))[:19] for row in
                     calculations.connection.execute(query)}  # fmt: skip
            done = {identity for identity, _, false in made if there.get(identity) == false}
            if len(done) < count:
                raise ProofFailed(
                    f"The database said that it wrote {counted(count, 'row')} of {TABLE}, and {len(done)} of them hold"
                    " what was written. Nothing of this chunk was kept. Look whether a trigger changes what is written."
                )
    except sa.exc.DBAPIError as error:
        if isinstance(error.orig, calculations.connection.dialect.loaded_dbapi.IntegrityError):
            calculations.end_read()
            if len(rows) == 1:
                return rows
            half = len(rows) // 2
            return [row for part in (rows[:half], rows[half:])
                    for row in _replaced(calculations, swaps, part, key, number, lunar, result)]  # fmt: skip
        if error.connection_invalidated or not is_lock_conflict(error):
            raise OperatorError(
                f"The database ended the work on {TABLE} ({error_text(error)}) after"
                f" {counted(result.replaced, 'row')}. The chunk at hand was rolled back; launch again."
            ) from None
        calculations.end_read()
        return rows
    result.replaced += len(done)
    return [row for row in rows if row[0] not in done]
