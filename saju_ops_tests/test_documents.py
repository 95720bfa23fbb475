"""The documents agree with the program and with each other: links, lengths, settings, commands, in both languages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from saju_ops.cli.main import main
from saju_ops.settings.settings import setting_names
from saju_ops_tests.settings import documents

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [
        *ROOT.glob("README*.md"),
        *(ROOT / "docs").glob("**/*.md"),
        *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    ]
)
ENGLISH = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KOREAN = [ROOT / "README.ko.md", *sorted((ROOT / "docs" / "ko").glob("*.md"))]
# Variables that Dagster, Python or a TLS library reads by itself.
READ_BY_LIBRARIES = {"DAGSTER_HOME", "TMPDIR", "SSL_CERT_FILE"}

FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def prose(path: Path) -> str:
    """A document's text without its blocks of code."""
    return FENCED.sub("", path.read_text("utf-8"))


def text_of(documents: list[Path]) -> str:
    return "\n".join(path.read_text("utf-8") for path in documents)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(prose(path)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def broken_links(path: Path) -> list[str]:
    broken = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(path))):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def named(variable: str, text: str) -> bool:
    """Whether a text names a variable, and not only a longer one that holds its name."""
    return re.search(rf"(?<![A-Z0-9_]){variable}(?![A-Z0-9_])", text) is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_to_a_heading_of_it(path: Path) -> None:
    assert broken_links(path) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# 복원 (밤에)\n\n## `x` and y\n\n## `x` and y\n\n```\n# no heading\n```\n", "utf-8")
    page = tmp_path / "a.md"
    good = "[1](b.md) [2](b.md#복원-밤에) [3](b.md#x-and-y-1) [4](https://example.com/#x) `[5](code.md)`\n"
    page.write_text(f"{good}```\n[6](code.md)\n```\n[7](c.md) [8](b.md#no-heading) [9](#here)\n", "utf-8")
    assert broken_links(page) == ["c.md", "b.md#no-heading", "#here"]


@pytest.mark.parametrize(("name", "most"), [("README.md", 120), ("README.ko.md", 250)])
def test_a_readme_is_short_enough_to_be_read(name: str, most: int) -> None:
    assert len((ROOT / name).read_text("utf-8").splitlines()) <= most


def in_table(path: Path) -> set[str]:
    """The variables in the first column of a document's tables."""
    rows = [line for line in path.read_text("utf-8").splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"[A-Z][A-Z0-9_]+", row.split("|")[1])}


def test_every_setting_is_in_the_table_of_each_language_and_nothing_else() -> None:
    english, korean = in_table(ROOT / "docs" / "settings.md"), in_table(ROOT / "docs" / "ko" / "settings.md")
    assert english == korean
    assert english - READ_BY_LIBRARIES == setting_names()


def test_the_settings_page_and_the_example_are_made_from_the_settings() -> None:
    """`make docs` writes them."""
    assert documents.DOCUMENT.read_text("utf-8") == documents.document()
    assert documents.EXAMPLE.read_text("utf-8") == documents.example()


def test_every_setting_that_an_english_document_names_is_in_a_korean_one() -> None:
    english, korean = text_of(ENGLISH), text_of(KOREAN)
    assert sorted(name for name in setting_names() if named(name, english) and not named(name, korean)) == []


def test_every_variable_of_the_example_is_read_by_somebody() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    variables = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", example, re.MULTILINE))
    assert len(variables) > 20
    assert sorted(variables - setting_names() - READ_BY_LIBRARIES) == []


@pytest.mark.parametrize("documents", [ENGLISH, KOREAN], ids=["English", "Korean"])
def test_every_command_is_in_a_document_of_each_language(documents: list[Path]) -> None:
    text = text_of(documents)
    assert [name for name in main.commands if not re.search(rf"saju-ops {name}(?![\w-])", text)] == []


def test_the_korean_readme_has_every_time_and_command_of_the_english_one() -> None:
    english, korean = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.ko.md"))
    commands = set(re.findall(r"saju-ops [a-z][a-z-]*|make [a-z]+", english))
    times = Counter(re.findall(r"\b\d\d:\d\d\b(?= \|)", english))
    assert sorted(command for command in commands if command not in korean) == []
    assert times
    assert times - Counter(re.findall(r"\b\d\d:\d\d\b(?= \|)", korean)) == Counter()


STIFF = ["남는 디스크", "찢어진", "움직이지 않았", "받지 않는 동안", "로그의 날짜 복원"]


def test_no_korean_document_has_an_expression_that_was_translated_word_by_word() -> None:
    text = text_of(KOREAN)
    assert [words for words in STIFF if words in text] == []
