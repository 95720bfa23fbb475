"""The `.env` file of the working folder, read strictly.

Promises: a line that can't be read is refused with the file's name and the line's number, never skipped. Skipped, the
setting would silently have its default: an unclosed quote once left DATABASE_URL at local.db, and a purge looked there.
Read are UTF-8 with or without a byte-order mark, line ends of any system, `export NAME=…`, quotes and `${OTHER}` as
python-dotenv has them. No sentence holds a line's text, which may hold a password.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from saju_ops.errors import SettingsError, shown

if TYPE_CHECKING:
    from dotenv.parser import Binding

ENV_FILE = Path(".env")
_LINE_END = re.compile(r"\r\n|\n|\r")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_env_file(path: Path, known: Collection[str]) -> dict[str, str | None]:
    """What the file sets, by name; nothing where there is none. `known` are the names of our own settings, about which
    nothing may be in doubt. Raises SettingsError."""
    if not path.is_file():
        return {}  # a folder, too: some call their virtual environment .env
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    text = _text(path)
    bindings = list(parse_stream(io.StringIO(text)))
    _require_readable(path, bindings, known)
    return dict(dotenv_values(stream=io.StringIO(text)))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{_named(path)} can't be read ({error.strerror}). Give its user the right to.") from None
    if content.startswith(_UTF16):
        raise SettingsError(f"{_named(path)}, line 1: it is UTF-16 text; it may be UTF-8. Save it as UTF-8.")
    if b"\0" in content:
        line = _line_at(content.partition(b"\0")[0])
        raise SettingsError(
            f"{_named(path)}, line {line}: it holds a NUL byte; it may be UTF-8 text. Save it as UTF-8."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_at(error.object[: error.start])
        raise SettingsError(
            f"{_named(path)}, line {line}: it is not UTF-8; Korean text of a Windows editor may be cp949. Save it as"
            " UTF-8."
        ) from None


def _require_readable(path: Path, bindings: list[Binding], known: Collection[str]) -> None:
    found: dict[str, tuple[int, str]] = {}
    # Names set so far: python-dotenv takes later ones for empty.
    names: set[str | None] = set()
    for each in bindings:
        line = each.original.line + _line_at(_blank_before(each.original.string)) - 1
        if why := _why_unreadable(each, names, known):
            raise SettingsError(f"{_named(path)}, line {line}: {why}.")
        if each.value is not None:
            names.add(each.key)
        if each.key is not None and each.key in known and each.value is not None:
            first, value = found.setdefault(each.key, (line, each.value))
            if value != each.value:
                raise SettingsError(
                    f"{_named(path)}, lines {first} and {line} set {each.key} to different values; leave one of them."
                )


def _why_unreadable(binding: Binding, names: Collection[str | None], known: Collection[str]) -> str:
    key, value = binding.key, binding.value
    if binding.error:
        quoted = re.search("=\\s*['\"]", binding.original.string)
        return (
            "its quote isn't closed, or text follows the closing one"
            if quoted
            else "it is no NAME=value; write a # before what is a remark"
        )
    if key is None:
        return ""
    plain = "".join(c for c in unicodedata.normalize("NFKC", key) if c.isprintable())
    if key not in known and plain in known:
        return f"the name looks like {plain} and has a letter that can't be seen or is none of ASCII; type it anew"
    if key not in known:
        return next((f"the quoted value holds a line that sets {name}; close its quote" for name in known
                     if value and re.search(rf"[\r\n]\s*(?:export\s+)?{name}\s*=", value)), "")  # fmt: skip
    if value is None:
        return f"{key} has no = behind it; write {key}= for its default"
    if _LINE_END.search(value):
        return f"the value of {key} has a line end in it; close its quote on the same line"
    unset = next(_unset(value, names), None)
    return f"{key} refers to ${{{unset}}}, which is not set; set it above, or write the value itself" if unset else ""


def _unset(value: str, names: Collection[str | None]) -> Iterator[str]:
    from dotenv.variables import Variable, parse_variables

    for atom in parse_variables(value):
        if isinstance(atom, Variable) and atom.default is None and atom.name not in {*names, *os.environ}:
            yield atom.name


def _blank_before(text: str) -> bytes:
    return text[: len(text) - len(text.lstrip())].encode()


def _line_at(before: bytes) -> int:
    """The number of the line that begins behind these bytes."""
    return len(re.findall(rb"\r\n|\n|\r", before)) + 1


def _named(path: Path) -> str:
    return shown(str(path.absolute()))


def value_of(variable: str, known: Collection[str]) -> str | None:
    """What the environment, or else the `.env` file, holds for a variable. Raises SettingsError."""
    if variable in os.environ:
        return os.environ[variable]
    return read_env_file(ENV_FILE, known).get(variable)
