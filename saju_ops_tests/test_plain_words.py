"""Plain English: words that make a plain fact hard to read stay out of the code, its tests and the documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import saju_ops

ROOT = Path(saju_ops.__file__).parents[1]
# As words of a text and as parts of a name: `outbox_told`, `_tell`.
BANNED = re.compile(r"(?<![A-Za-z])(?:un)?(?:told|tell|tells|telling|goes|lies|stands)(?![A-Za-z])", re.IGNORECASE)
# A sentence that begins with "Of these rows …" hides its subject.
OPENING = re.compile(r'(?:^|[.:;!?] |"""|# |\*\*)Of (?!course\b)[a-z0-9`]')
# Names that are stored or shown to users, and so stay; and a method of Python's files.
ALLOWED = {
    "saju_ops/alerts/outbox.py": r"\btold\b",
    "saju_ops/defs/upkeep/prune.py": r'"(?:told|goes)"',
    "saju_ops/defs/expired/sessions.py": r'"redis_sessions_told"',
    "saju_ops/dumps/programs.py": r"\.tell\(\)",
    "saju_ops_tests/defs/test_alerts_kill.py": r"\btold IS NULL",
}


def lines() -> Iterator[tuple[str, int, str]]:
    """Every line of the code, its tests and the English documents, but for this file."""
    files = [path for top in ("saju_ops", "saju_ops_tests", "benchmarks") for path in (ROOT / top).rglob("*.py")]
    for path in sorted([*files, *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]):
        if path != Path(__file__):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                yield path.relative_to(ROOT).as_posix(), number, line


def test_words_that_hide_a_plain_fact_are_not_used() -> None:
    found = []
    for name, number, line in lines():
        if BANNED.search(re.sub(ALLOWED[name], "", line) if name in ALLOWED else line):
            found.append(f"{name}:{number}: {line.strip()}")
    assert found == []


def test_no_sentence_begins_with_of() -> None:
    assert [f"{name}:{number}: {line.strip()}" for name, number, line in lines() if OPENING.search(line)] == []


def test_the_words_are_found_where_they_are() -> None:
    assert all(BANNED.search(text) for text in ("It goes on.", "_told", "errors_told(", "Untold", "what lies there"))
    assert not any(BANNED.search(text) for text in ("intellect", "category", "understands", "families", "retold"))
    assert OPENING.search('"""Of a folder it reads')
    assert OPENING.search("is sent. Of a larger file the path")
    assert not OPENING.search("Of course, that is kept.")
