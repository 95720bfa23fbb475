"""The file in S3 that a text names, in any of the forms that programs write.

Bucket and key decide: an https address of either style, with a region, signed or percent-encoded, `s3://` and `S3A://`,
an ARN, a key with blanks around it or in the other Unicode form all name the same file. A text of unclear meaning, such
as the address of a CDN, names it perhaps: then the file is kept. A key with two slashes differs from a key with one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

import sqlalchemy as sa

# Characters that no key begins or ends with on purpose, but that programs leave there: all blanks, marks without width.
BLANKS = "".join(map(chr, (9, 10, 11, 12, 13, 28, 29, 30, 31, 32, 133, 160, 5760, *range(8192, 8206), 8232, 8233, 8239,
                           8287, 8288, 12288, 65279)))  # fmt: skip
_AMAZON = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-][a-z0-9.-]+)?\.amazonaws\.com(?:\.cn)?")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(?://)?(.*)", re.IGNORECASE | re.DOTALL)
_TOKENS = re.compile(r"""[\s"',;\[\]{}]+""")


@dataclass
class Named:
    """Keys of the bucket that a text names, and those that it may name. In NFC."""

    sure: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)

    def add(self, keys: Iterable[str], *, sure: bool = True) -> None:
        (self.sure if sure else self.unsure).update(nfc(key) for key in keys if key)


def nfc(key: str) -> str:
    return unicodedata.normalize("NFC", key)


@dataclass(frozen=True)
class S3Names:
    """How files of one bucket are named. `endpoint` is S3_ENDPOINT_URL, empty for AWS."""

    bucket: str
    endpoint: str = ""
    # Keys that begin with the bucket's own name are keys, and no bucket with a key.
    folder: str = ""

    @cached_property
    def _host(self) -> str:
        return urlsplit(self.endpoint).netloc.lower()

    def read(self, stored: Any) -> Named:
        """The file that a cell names."""
        named = Named()
        if isinstance(stored, (bytes, bytearray, memoryview)):
            stored = bytes(stored).decode("utf-8", "surrogateescape")
        if stored is None:
            return named
        text = str(stored).strip(BLANKS)
        inner = [*_TOKENS.split(text), *re.split("[\"']", text)] if text[:1] in set("[{\"'") else []
        for token in {text, *inner}:
            self._read_one(token.strip(BLANKS), named)
        return named

    def _read_one(self, text: str, named: Named) -> None:
        match = _SCHEME.fullmatch(text)
        scheme, rest = (match[1].lower(), match[2]) if match and "://" in text[:40] else ("", text)
        if scheme in ("s3", "s3a", "s3n"):
            self._in_bucket(rest, named)
        elif scheme in ("http", "https") or text.startswith("//"):
            self._address(rest.removeprefix("//"), named)
        elif text.lower().startswith("arn:"):
            self._in_bucket(text.rpartition(":::")[2], named)
        elif scheme:
            named.add(_paths(rest), sure=False)
        else:
            named.add((text, text.removeprefix("/")))
            named.add(form for form in _decoded(text))
            if not self.folder.startswith(f"{self.bucket}/"):
                self._in_bucket(text.removeprefix("/"), named)
            if "." in text.partition("/")[0]:
                self._address(text, named, strangers=False)

    def _in_bucket(self, path: str, named: Named) -> None:
        """Reads `bucket/key`, if that is our bucket."""
        bucket, _, key = path.partition("/")
        if unquote(bucket).lower() == self.bucket.lower():
            named.add((key, *_decoded(key)))

    def _address(self, text: str, named: Named, *, strangers: bool = True) -> None:
        """Reads `host/path`, with whatever follows a question mark."""
        netloc, _, path = text.partition("/")
        host = netloc.rpartition("@")[2].lower()
        amazon = _AMAZON.fullmatch(host.partition(":")[0])
        own = {self._host, self._host.partition(":")[0]} - {""}
        if host in own or (amazon and not amazon["bucket"]):
            self._in_bucket(path, named)
        elif amazon or any(host.endswith(f".{each}") for each in own):
            bucket = amazon["bucket"] if amazon else host[: -len(next(e for e in own if host.endswith(f".{e}"))) - 1]
            if bucket == self.bucket.lower():
                named.add((path, *_decoded(path)))
        elif strangers:
            named.add(_paths(text), sure=False)

    def odd(self, column: sa.ColumnElement[Any], engine: str) -> sa.ColumnElement[bool]:
        """Cells that may name a file in another way than by its plain key; wider than need be."""
        text = sa.cast(column, sa.Text) if engine == "postgresql" else column
        own = f"s3://{self.bucket}/"
        head = sa.func.substr(text, 1, len(own))
        # In letters as they are: a collation may take S3:// for the same.
        plain = sa.cast(head, sa.LargeBinary) == own.encode() if engine in ("mysql", "mariadb") else head == own
        marks = [text.contains(mark, autoescape=True) for mark in ("%", "?", "#", ".amazonaws.com", self._host) if mark]
        begins = [text.startswith(mark, autoescape=True) for mark in ("//", "arn:", "[", "{", '"', "'")]
        if not self.folder.startswith(f"{self.bucket}/"):
            begins += [text.startswith(f"{slash}{self.bucket}/", autoescape=True) for slash in ("", "/")]
        last = sa.func.substr(text, -1) if engine == "sqlite" else sa.func.right(text, 1)
        blanks = [end.in_(list(BLANKS)) for end in (sa.func.substr(text, 1, 1), last)]
        return sa.or_(sa.and_(text.contains("://"), sa.not_(plain)), *marks, *begins, *blanks)


def _decoded(text: str) -> Iterator[str]:
    """The possible meanings of a path: without query and fragment, and with percent-encoded names decoded."""
    for form in {text, text.partition("?")[0], text.partition("#")[0].partition("?")[0]}:
        yield from (form, unquote(form), unquote_plus(form))


def _paths(text: str) -> Iterator[str]:
    """The possible keys in an address of unknown form: its path, and the path without its first folder."""
    for form in _decoded(text.partition("/")[2]):
        yield from (form, form.partition("/")[2])
