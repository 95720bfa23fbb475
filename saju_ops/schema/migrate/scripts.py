"""The migrations of this package, as Alembic's graph: which there are, what is applied, which steps lead to a target.

The main line is the branch `chatbot`. Every other migration is an opt-in branch of its own, with a label, and applied
only where its label is named.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saju_ops.errors import Refused

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

MAIN = "chatbot"
HEAD = f"{MAIN}@head"


@functools.cache
def directory() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(__file__).parent))


def revisions() -> dict[str, Script]:
    """Every migration by its id, parents before children."""
    found = {script.revision: script for script in directory().walk_revisions()}
    return {name: found[name] for name in sorted(found, key=lambda name: (len(_behind(found, [name])), name))}


def _behind(scripts: dict[str, Script], heads: Iterable[str]) -> set[str]:
    """The migrations, and all that they rest on."""
    found: set[str] = set()
    wanted = list(heads)
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            script = scripts[name]
            wanted += [*_names(script.down_revision), *_resolved(script)]
    return found


def _resolved(script: Script) -> list[str]:
    return [directory().get_revision(name).revision for name in _names(script.dependencies)]


def _names(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def applied(heads: Iterable[str]) -> list[str]:
    """What a database has, by the heads in Alembic's table. Raises Refused for one that this version doesn't know."""
    known = revisions()
    if unknown := [head for head in heads if head not in known]:
        raise Refused(
            f"The database has the migration {', '.join(unknown)}, which this version of saju_ops does not know: a"
            " newer one migrated it. Nothing was touched; use that version."
        )
    behind = _behind(known, heads)
    return [name for name in known if name in behind]


def opt_in(script: Script) -> str:
    """The label of the branch; empty for the main line."""
    return "" if MAIN in script.branch_labels else next(iter(sorted(script.branch_labels)), script.revision)


def description(script: Script) -> str:
    return (script.doc or script.revision).strip().splitlines()[0]


@contextmanager
def in_words() -> Iterator[None]:
    """Alembic's own errors are about the target."""
    from alembic.util import CommandError

    try:
        yield
    except CommandError as error:
        names = [*revisions(), *sorted({f"{opt_in(s) or MAIN}@head" for s in revisions().values()})]
        raise Refused(
            f"That target can't be reached ({error}). It may be one of {', '.join(names)}, base, LABEL@base, or a"
            " number of migrations such as -1. Nothing was touched."
        ) from None


def heads_of(target: str) -> list[str]:
    """The ids of a target: of a label's head, or of a migration. Raises Refused."""
    with in_words():
        return [script.revision for script in directory().get_revisions(target) if script is not None]


def way_up(target: str, heads: Sequence[str]) -> list[Any]:
    with in_words():
        return list(directory()._upgrade_revs(target, tuple(heads)))  # type: ignore[arg-type]


def way_down(target: str, heads: Sequence[str]) -> list[Any]:
    with in_words():
        return list(directory()._downgrade_revs(target, tuple(heads)))  # type: ignore[arg-type]


def stamps(target: str, heads: Sequence[str]) -> list[Any]:
    with in_words():
        return list(directory()._stamp_revs(target, tuple(heads)))
