"""Addresses of other services than databases. What their clients would read in another way than it was meant is
refused."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from saju_ops.database.address_options import LOGIN


def require_redis_address(address: str) -> None:
    """Raises ValueError, without the address, if Redis' client would read the address in another way than it was
    meant."""
    scheme, mark, rest = address.partition("://")
    if not mark or scheme not in ("redis", "rediss", "unix") or not rest:
        raise ValueError("not a Redis address")
    login = LOGIN.match(rest)
    place = rest[login.end() :] if login else rest
    # The client ends the host at the first /, and takes what is behind a : for a port.
    if "@" in place or (login and re.search(r"[/?#\[\]]", login[0])):
        raise ValueError("its password isn't escaped; write @ in a password as %40, / as %2F, ? as %3F, # as %23")
    port = re.fullmatch(r"(?:\[[^\]]+\]|[^:/?]*):([^/?]*)(?:[/?].*)?", place)
    if scheme != "unix" and port and not re.fullmatch(r"\d{1,5}", port[1]):
        raise ValueError("its port isn't a number")


def require_http_address(value: str) -> None:
    """Raises ValueError unless it is an http(s) address of a host, without a login."""
    if not value.isprintable() or re.search(r"[\s'\"`<>\\;,$]", value):
        raise ValueError("it holds a blank, a quote or another character that no such address has")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) address")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address here can't hold a login")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("its port isn't a number from 1 to 65535")
