"""Encrypts the birth dates of user_sessions, and rotates what is encrypted to the newest key.

Promises: a clear birth becomes NULL only in the transaction that wrote its token, read the token back from the table
and decrypted it to the very same. A row that the service changed meanwhile is left for another pass. What no key opens,
and what says another birth than the clear column, is never overwritten. Killed at any instruction, the next run does
the rest.

Refuses, before anything is touched: without a key, with keys of which none opens any token that is there, without a
proven dump younger than a day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from saju_ops.archive.deleting import is_lock_conflict
from saju_ops.bounds import ChunkBirths, Most, PauseSeconds, RuntimeSeconds, require_bounds
from saju_ops.database.connect import error_text
from saju_ops.errors import OperatorError, ProofFailed, Refused
from saju_ops.rows.engines.open import RowStore
from saju_ops.run_control import TO_THE_END, RunControl, Stop
from saju_ops.schema.birth_data.keys import Key, required_keys
from saju_ops.schema.birth_data.look import BirthData, Judged, is_token, judge
from saju_ops.schema.birth_data.rows import CHUNK, HIDDEN, Change, Identity, Row, SessionRows
from saju_ops.schema.birth_data.tokens import Opened, encrypted, opened, payload_of
from saju_ops.words import counted

LOCK = "the birth dates"
LOCK_WAIT = 10.0
# Times that the table is gone through: rows that changed meanwhile are tried again so often.
PASSES = 3
# Rows that somebody holds, each waited for: more of them, and the table is locked as a whole.
MOST_HELD = 30


@dataclass(frozen=True)
class Options:
    """What a run may do. Raises Refused for values that make no sense, before anything is touched."""

    dry_run: bool = True
    # Whether the clear birth becomes NULL once its token is proven.
    clear_plain: bool = True
    # Whether tokens of older keys are encrypted anew by the first.
    rotate: bool = True
    # base64 around the token, as the service's own code has it; None: as the tokens that are there have it.
    double: bool | None = None
    chunk_rows: ChunkBirths = CHUNK
    max_rows: Most | None = None
    max_runtime_seconds: RuntimeSeconds | None = None
    pause_seconds: PauseSeconds = 0.0

    def __post_init__(self) -> None:
        require_bounds(self)


@dataclass
class EncryptResult:
    """What a run did; with dry_run, what it would do."""

    dry_run: bool
    keys: tuple[Key, ...]
    encrypted: int = 0
    # Clear births beside a token of the same birth, which became NULL.
    cleared: int = 0
    rotated: int = 0
    # Changed by the service between reading and writing, or held by it; the next run takes them.
    left: int = 0
    # What the table holds by the last look at each row; after a dry run, as it was.
    found: BirthData = field(default_factory=BirthData)
    # The service's own triggers that ran with each changed row.
    triggers: int = 0
    chunks: int = 0
    seconds: float = 0.0
    stopped: str = "finished"

    @property
    def finished(self) -> bool:
        return self.stopped == "finished"

    @property
    def changed(self) -> int:
        return self.encrypted + self.cleared + self.rotated


class _Plan(NamedTuple):
    """A change of one row, and what the token must hold once it was written."""

    change: Change
    payload: bytes
    # Which of the result's counters it adds to.
    kind: str
    judged: Judged
    # The key that opens the token.
    key: Key


class _Prepared(NamedTuple):
    row: Row
    judged: Judged
    # None: nothing is to be done with it, or nothing may be.
    plan: _Plan | None


@dataclass
class EncryptRun:
    """`require_dump` raises OperatorError where no proven dump of a day's age is there; it is called before the first
    row is changed."""

    store: RowStore
    keys: Sequence[Key]
    options: Options
    require_dump: Callable[[], None]
    control: RunControl = TO_THE_END

    def __post_init__(self) -> None:
        required_keys(self.keys)
        self._started = self.control.clock()
        self._double = bool(self.options.double)
        self._dump_is_there = False
        self._held = 0
        self._rows = SessionRows(self.store)
        self.result = EncryptResult(self.options.dry_run, tuple(self.keys))

    def run(self) -> EncryptResult:
        """Changes nothing but the two columns of the birth. Raises Refused, Busy, ProofFailed."""
        with self.store.lock(LOCK, LOCK_WAIT):
            self._look_first()
            self.result.triggers = self._rows.swaps.update_triggers()
            self.store.wait_briefly()
            try:
                self._passes()
            except Stop as stop:
                self.result.stopped = str(stop)
        self.result.seconds = self.control.clock() - self._started
        return self.result

    def _passes(self) -> None:
        for _ in range(PASSES):
            self.result.found, self.result.left = BirthData(), 0
            self._pass()
            if not self.result.left:
                return

    def _look_first(self) -> None:
        """Whether a key fits what is there, and in which form that is. Reads until it knows."""
        tokens, after = 0, None
        while chunk := self._rows.chunk(after, self.options.chunk_rows, encrypted_only=True):
            for row in filter(is_token, chunk):
                tokens += 1
                if found := opened(str(row.hidden).encode(errors="replace"), self.keys):
                    if self.options.double is None:
                        self._double = found.is_double
                    return
            after = chunk[-1].identity
        if tokens:
            names = ", ".join(f"key {key.place}: {key.fingerprint}" for key in self.keys)
            raise Refused(
                f"{self.store.table.name}.{HIDDEN} holds {counted(tokens, 'encrypted birth date')}, and no key of"
                f" ENCRYPTION_KEY ({names}) opens any of them: the right key was left out, or this one is another"
                " installation's. Nothing was touched. Add the key that encrypted them behind the first one, with a"
                " comma; `saju-ops keys check` says which key opens what."
            )

    def _pass(self) -> None:
        """While the server writes one chunk, the next one is encrypted: a third of the time is waiting for it."""
        after: Identity | None = None
        with ThreadPoolExecutor(1) as beside:
            ready: Future[list[_Prepared]] | None = None
            while True:
                self._check_limits()
                chunk = self._rows.chunk(after, self.options.chunk_rows)
                following = beside.submit(self._prepare, chunk) if chunk else None
                if ready is not None:
                    self._do(ready.result())
                if following is None:
                    return
                ready, after = following, chunk[-1].identity

    def _check_limits(self) -> None:
        self.control.check()
        if (most := self.options.max_rows) is not None and self.result.changed >= most:
            raise Stop(f"max_rows ({most}) reached")
        self.control.check_runtime(self._started, self.options.max_runtime_seconds)

    # --- one chunk -------------------------------------------------------------------------------------------

    def _prepare(self, chunk: Sequence[Row]) -> list[_Prepared]:
        """Touches neither the database nor the result."""
        judged = [(row, judge(row, self.keys)) for row in chunk]
        return [_Prepared(row, what, self._plan(row, what)) for row, what in judged]

    def _do(self, chunk: Sequence[_Prepared]) -> None:
        most = self.options.max_rows
        plans = [each.plan for each in chunk if each.plan is not None]
        plans = plans if most is None else plans[: max(0, most - self.result.changed)]
        planned = {plan.change.row.identity for plan in plans}
        for each in chunk:
            if self.options.dry_run or each.row.identity not in planned:
                self.result.found.note(each.row, each.judged)
        if self.options.dry_run:
            for plan in plans:
                self._add(plan)
        elif plans:
            if not self._dump_is_there:
                self.require_dump()
                self._dump_is_there = True
            self._write(plans)
        self.result.chunks += 1
        self.control.progress(self.result)
        if self.options.pause_seconds and not self.options.dry_run:
            self.control.sleep(self.options.pause_seconds)

    def _plan(self, row: Row, judged: Judged) -> _Plan | None:
        """What is to be done with a row; None where nothing is, or where nothing may be."""
        newest, birth, token = self.keys[0], row.birth, judged.token
        if judged.unreadable or judged.differs:
            return None
        if birth is not None and (token is None or judged.outdated):
            double = self._double if token is None else token.is_double
            payload = payload_of(birth, self._rows.flags)
            text = b"" if self.options.dry_run else encrypted(payload, newest, double=double)
            change = Change(row, text.decode(), self.options.clear_plain)
            return _Plan(change, payload, "encrypted", judged, newest)
        if token is None:
            return None
        clears = birth is not None and self.options.clear_plain
        rotates = self.options.rotate and token.key is not newest
        if not clears and not rotates:
            return None
        again = rotates and not self.options.dry_run
        # Its writer's own bytes and form: the service can read it as before.
        text = encrypted(token.payload, newest, double=token.is_double) if again else str(row.hidden).encode()
        kind, key = "cleared" if clears else "rotated", newest if rotates else token.key
        return _Plan(Change(row, text.decode(), clears), token.payload, kind, judged, key)

    def _add(self, plan: _Plan) -> None:
        setattr(self.result, plan.kind, getattr(self.result, plan.kind) + 1)

    def _write(self, plans: Sequence[_Plan]) -> None:
        """In halves where somebody holds a row, down to that one."""
        try:
            done = self._written(plans)
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated or not is_lock_conflict(error):
                raise self._broken_off(error) from None
            self.store.end_read()
            if len(plans) > 1:
                half = len(plans) // 2
                self._write(plans[:half])
                self._write(plans[half:])
                return
            done, self._held = set(), self._held + 1
        for plan in plans:
            row = plan.change.row
            if row.identity in done:
                self._add(plan)
                now = Row(row.identity, None if plan.change.clears else row.clear, row.lunar, row.leap, None)
                self.result.found.note(now, Judged(Opened(plan.key, plan.payload, False)))
            else:
                self.result.left += 1
                self.result.found.note(row, plan.judged)
        if self._held >= MOST_HELD:
            raise Stop(f"{counted(self._held, 'row')} in a run were held by others")

    def _written(self, plans: Sequence[_Plan]) -> set[Identity]:
        """The rows that hold their token and were proven, committed. Raises ProofFailed, and then nothing of it is."""
        with self.store.transaction():
            count = self._rows.change([plan.change for plan in plans])
            there = self._rows.written([plan.change.row for plan in plans])
            done = {plan.change.row.identity for plan in plans if self._is_proven(plan, there)}
            if len(done) < count:
                raise ProofFailed(
                    f"The database said that it wrote {counted(count, 'row')} of {self.store.table.name}, and"
                    f" {len(done)} of them hold what was written and decrypt to what they held. Nothing of this chunk"
                    " was kept: every birth in it is as it was. Look whether a trigger changes what is written to"
                    f" {HIDDEN}, and whether the column takes 400 characters."
                )
        return done

    def _is_proven(self, plan: _Plan, there: Mapping[Identity, tuple[str, Any]]) -> bool:
        row, token, clears = plan.change
        hidden, clear = there.get(row.identity, (None, None))
        if hidden != token or clear != (None if clears else row.clear):
            return False
        found = opened(str(hidden).encode(), (plan.key,))
        return found is not None and found.payload == plan.payload

    def _broken_off(self, error: sa.exc.DBAPIError) -> OperatorError:
        return OperatorError(
            f"The database ended the encryption of {self.store.table.name} ({error_text(error)}) after"
            f" {counted(self.result.changed, 'row')}, which hold what they should. The chunk at hand was rolled back,"
            " and every birth in it is as it was. Launch again: what is encrypted is skipped."
        )
