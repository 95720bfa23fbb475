"""What the rows of user_sessions hold: in the clear, by which key, opened by none. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from saju_ops.rows.engines.open import RowStore
from saju_ops.schema.birth_data.keys import Key
from saju_ops.schema.birth_data.rows import Row, SessionRows
from saju_ops.schema.birth_data.tokens import (
    Opened,
    birth_in,
    holds_no_more_than_the_columns,
    looks_like_a_token,
    opened,
    says_the_same,
)


@dataclass(frozen=True)
class Judged:
    """What one row holds."""

    token: Opened | None = None
    # Something is in the column, and no key opens it.
    unreadable: bool = False
    # The clear birth is beside the token: the same one; another one, by a token that may be replaced; another one.
    same: bool = False
    outdated: bool = False
    differs: bool = False


NOTHING = Judged()


def judge(row: Row, keys: Sequence[Key]) -> Judged:
    if not row.hidden:
        return NOTHING
    token = opened(row.hidden.encode(errors="replace"), keys)
    if token is None:
        return Judged(unreadable=True)
    birth = row.birth
    if birth is None:
        return Judged(token)
    hidden = birth_in(token.payload)
    if hidden is not None and says_the_same(birth, hidden):
        return Judged(token, same=True)
    # The service writes the clear column; a token of ours beside it is older than what is there.
    outdated = holds_no_more_than_the_columns(token.payload)
    return Judged(token, outdated=outdated, differs=not outdated)


@dataclass
class BirthData:
    """How many rows hold what."""

    rows: int = 0
    in_the_clear: int = 0
    # How many of those are a number or bytes, which SQLite takes in a column of times. They are not encrypted.
    not_text: int = 0
    # By the key's place in ENCRYPTION_KEY.
    per_key: Counter[int] = field(default_factory=Counter)
    unreadable: int = 0
    # How many of those don't even have the form of a token.
    no_token: int = 0
    # Both columns hold a birth, not the same one, and the token holds more than the columns do or isn't understood.
    differing: int = 0

    @property
    def encrypted(self) -> int:
        return self.per_key.total() + self.unreadable

    def note(self, row: Row, judged: Judged) -> None:
        self.rows += 1
        if row.clear is not None:
            self.in_the_clear += 1
            self.not_text += row.birth is None
        if judged.token is not None:
            self.per_key[judged.token.key.place] += 1
        if judged.unreadable:
            self.unreadable += 1
            self.no_token += not is_token(row)
        self.differing += judged.differs


def is_token(row: Row) -> bool:
    return bool(row.hidden) and looks_like_a_token(str(row.hidden).encode(errors="replace").strip())


def look_at_birth_data(store: RowStore, keys: Sequence[Key]) -> BirthData:
    """Reads every birth, in chunks, and changes nothing. Without keys every token counts as unreadable."""
    rows, found, after = SessionRows(store), BirthData(), None
    while chunk := rows.chunk(after):
        for row in chunk:
            found.note(row, judge(row, keys))
        after = chunk[-1].identity
    return found
