"""The English of messages: numbers agree with their nouns, a refusal is in our words, and a verb has its subject."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import saju_ops
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings, SettingsError
from saju_ops.words import are, counted, were

NOUNS = (
    "day|row|file|table|session|job|database|record|collection|backup|archive|dump|snapshot|manifest|hour|minute|second"
    "|key|character|column|value|view|chunk|time|part|reference|run|user|trigger|message|call|object|document|vector"
    "|line|month|year|other|place|statement|name|replica|problem|float|link|copie|processe"
)
SMALL = "unless|of|its|in|and|with|on|from|to|for|has|have|had|was|were|is|are|that|which"
# A number, perhaps some adjectives, and a noun that is right for two or more only.
PLURAL = re.compile(rf"^ (?:(?!(?:{SMALL}) )[a-z-]+ ){{0,2}}(?:{NOUNS})s\b")
# Numbers of our own that are never one, and what is a person's own count: a setting's bounds.
CONSTANT = re.compile(r"[A-Z][A-Z_]+(?:\.\w+)?$|.*(?:SECONDS|TRIES)\b|NAMED$|most$")
# The value before the noun is no number.
NO_NUMBER = re.compile(
    r"name|server|setting|where|what|why|path|join|\.key|label|shown|table|verb|text|kind|parent|^its\(|^them\(",
    re.IGNORECASE,
)


def formatted() -> Iterator[tuple[Path, int, str, str]]:
    """Each value in a text that is followed by more text: file, line, the expression, and what follows."""
    for path in sorted(Path(saju_ops.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                for value, behind in zip(node.values, node.values[1:], strict=False):
                    if isinstance(value, ast.FormattedValue) and isinstance(behind, ast.Constant):
                        yield path, node.lineno, ast.unparse(value.value), str(behind.value)


def test_no_message_counts_one_thing_in_the_plural() -> None:
    wrong = [
        f"{path.name}:{line}: {{{value}}}{behind[:30]}"
        for path, line, value, behind in formatted()
        if PLURAL.match(behind) and not (CONSTANT.search(value) or NO_NUMBER.search(value) or is_korean(path))
    ]
    assert wrong == []


def is_korean(path: Path) -> bool:
    """Reports for operators, whose labels are the specification's, and SQL."""
    return bool({"alerts", "reports", "schema"} & {*path.parts}) or path.name == "seal.py"


def test_numbers_agree_with_their_nouns() -> None:
    assert [counted(n, "day") for n in (0, 1, 2, 1200)] == ["0 days", "1 day", "2 days", "1,200 days"]
    assert [counted(n, "copy", "copies") for n in (1, 3)] == ["1 copy", "3 copies"]
    assert [(are(n), were(n)) for n in (0, 1, 2)] == [("are", "were"), ("is", "was"), ("are", "were")]


PYDANTIC = re.compile("Input should|unable to parse|validation error|pydantic|Value error|valid (?:integer|date)")


@pytest.mark.parametrize("value", ["?", "1.5", "true1", "2026-13-45", "\ud800x", "[]"])
def test_a_refused_setting_is_in_our_own_words(value: str) -> None:
    """Every setting with values that it can't hold."""
    refused = []
    for field in Settings.model_fields.values():
        try:
            load_settings(**{str(field.validation_alias): value})
        except SettingsError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert [sentence for sentence in refused if PYDANTIC.search(sentence)] == []


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("LOG_RETENTION_DAYS", "thirty", "not a whole number"), ("LOG_RETENTION_DAYS", "1.5", "not a whole number"),
        ("ARCHIVE_START_DATE", "soon", "not a date"), ("JOBS_S3_DELETE", "perhaps", "neither true nor false"),
        ("ARCHIVE_COMPRESSION", "zip", "none of these"), ("SLACK_ATTACH", "yes", "none of these"),
    ],
)  # fmt: skip
def test_the_reason_is_a_phrase_that_fits_the_setting(name: str, value: str, why: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"({why}); it may hold")):
        load_settings(**{name: value})
