"""A folder's or file's path as a person types it into a setting, and typing errors that would silently name another.

`s3:/bucket/x`, `$HOME/b` and `C:\\backups` are all possible names of a folder here. If they were accepted, a night's
backups would be in the working folder, and `status` would say that all is well.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

# With a first part like this a person means an address, or a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|(?:s3[an]?|gdrive|file|https?|gs|azure|ftp|sftp)//", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{|(?:^|/)\$[A-Za-z_(]|(?:^|[/\\])%[A-Za-z_][A-Za-z0-9_]*%")
_QUOTES = "'\"`“”‘’"
# A blank and then the beginning of a path or an address: two of them, and not one with a blank in it.
_ANOTHER = re.compile(r"\s(?:\.{0,2}/|~/|[A-Za-z0-9+]+:/)")


def slip_in(text: str) -> str:
    """The reason why a text can't be meant as a path or a store's address; empty if it can."""
    if not text.isprintable():
        return "it holds a line end or another character that can't be seen"
    if text and (text[0] in _QUOTES or text[-1] in _QUOTES):
        return "it begins or ends with a quote; write it without"
    if wide := next((c for c in text if not c.isascii() and unicodedata.normalize("NFKC", c) in ",:;/\\.~$%"), ""):
        return f"it holds the wide {wide!r}; write the narrow {unicodedata.normalize('NFKC', wide)!r}"
    if ";" in text:
        return "it holds a semicolon"
    if _ANOTHER.search(text):
        return "it holds two paths or addresses with a blank between them"
    if _VARIABLE.search(text):
        return "it holds a variable, which only a shell replaces; write the path itself"
    return ""


def slip_in_path(text: str) -> str:
    """The reason why a text can't be meant as a path; empty if it can."""
    if slip := slip_in(text):
        return slip
    if "\\" in text or re.match("[A-Za-z]:(?:/|$)", text):
        return "it is a path of Windows"
    if _SCHEME.match(text):
        return "it begins like an address and is none; a path of that name begins with ./"
    if text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            return "there is no user of that name, or the user has no home"
    return ""


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _inside(path: Path, folder: Path) -> bool:
    """Whether the path is the folder or in it, by its name or, through a mount, by the files' identity."""
    chain = [path, *path.parents]
    if folder in chain:
        return True
    try:
        there = folder.stat()
    except OSError:
        return _ignores_case(folder) and any(str(p).casefold() == str(folder).casefold() for p in chain)
    for each in chain:
        try:
            found = each.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
            return True
    return False


def _ignores_case(path: Path) -> bool:
    """Whether the file system under a path that isn't there yet takes A for a."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    swapped = existing.with_name(existing.name.swapcase()) if existing.name else existing
    return swapped != existing and swapped.exists() and swapped.samefile(existing)
