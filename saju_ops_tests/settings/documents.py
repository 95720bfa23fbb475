"""`docs/settings.md` and `.env.example`, made from the classes of the settings: `make docs` writes them, and a test
compares them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from saju_ops.settings.feature import Feature
from saju_ops.settings.fields import allowed, variable_of, words_of
from saju_ops.settings.settings import features

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT, EXAMPLE = ROOT / "docs" / "settings.md", ROOT / ".env.example"
WIDTH = 120
# Set to begin with: without it the databases of the example would be a file.
SET = {"DATABASE_URL"}

HEAD = """\
# Settings

<!-- Made from saju_ops/settings by `make docs`. Edit the fields there. -->

Settings are environment variables, or lines of `.env` in the working folder (UTF-8, from any system). The environment
wins over `.env`, except in Dagster's own commands such as `dagster asset materialize`. An empty variable means the
default. A wrong value is refused with a sentence that says what is allowed, and a line of `.env` that can't be read
with the file's name and the line. (Where `.env` isn't UTF-8, Dagster's own commands give a traceback of their own
before that; `saju-ops status` names the line.) No secret is printed. `saju-ops status` says whether the present
values are usable. All of them in one file: [.env.example](../.env.example).
"""
TAIL = """\
## Run configs

What one run may do is in its run config, with a description of each field in Dagster's launchpad. A launch with a
number outside of its bounds, or a date that is none, is refused before there is a run. The purge of the conversation
log has `retention_days`, `from_day`, `to_day`, `chunk_size`, `pause_seconds`, `max_rows`, `max_runtime_seconds` and
`max_replica_lag_seconds`.

## Read by Dagster and Python

| variable | default | what it does |
|---|---|---|
| `DAGSTER_HOME` | `.dagster_home` with `make dev` | Dagster's history and the queue of alerts, on a disk that is kept |
| `TMPDIR` | `/tmp` | Temporary files. A snapshot of Chroma needs two or three times the size of its collections |
"""
EXAMPLE_HEAD = """\
# Made from saju_ops/settings by `make docs`. Copy to .env and fill in. Everything has a default, also what is empty.
# `saju-ops status` says what is usable; docs/addresses.md has the options of addresses (TLS, schema, socket).
"""


def document() -> str:
    return "\n".join([HEAD, *(line for feature in features() for line in _section(feature)), TAIL])


def _section(feature: type[Feature]) -> Iterator[str]:
    yield f"## {feature.title}\n"
    yield f"More: [{feature.page}]({feature.page}).\n"
    yield "| variable | default | what it does | what it may hold |"
    yield "|---|---|---|---|"
    for field in feature.own_fields():
        default = default_text(field)
        cells = (f"`{variable_of(field)}`", f"`{default}`" if default else "", words_of(field)["about"], allowed(field))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in cells)} |"
    yield ""


def example() -> str:
    return "\n".join([EXAMPLE_HEAD, *(line for feature in features() for line in _example_section(feature)), ""])


def _example_section(feature: type[Feature]) -> Iterator[str]:
    yield f"\n# --- {feature.title} (docs/{feature.page}) {'-' * 100}"[:WIDTH]
    for field in feature.own_fields():
        words, variable = words_of(field), variable_of(field)
        yield from textwrap.wrap(
            f"{words['about']}. It may hold {allowed(field)}.", WIDTH, initial_indent="# ", subsequent_indent="# ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        yield f"{'' if variable in SET else '#'}{variable}={words['example'] or default_text(field)}"


def default_text(field: FieldInfo) -> str:
    """The default as one writes it into `.env`; nothing where there is none."""
    value = field.default
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
    EXAMPLE.write_text(example(), "utf-8")
