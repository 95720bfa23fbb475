"""What is checked before a call is looked at: the token, and the limits of rate and size.

It comes before routing, so that nobody learns without the token which routes there are. The token is compared in
constant time, as bytes, and is part of no answer and no log line.
"""

from __future__ import annotations

import asyncio
import hmac
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from saju_ops.trigger.limits import Bucket
from saju_ops.words import counted

# Nothing is read from a body; schedulers send small ones.
BODY_BYTES = 16 * 1024
BODY_SECONDS = 5.0
# What is read and thrown away of a refused body, so that the caller reads the answer instead of a broken connection.
DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_SECONDS = 2.0
WRONG_TOKENS_PER_MINUTE = 30


class Refusal(Exception):
    """An answer instead of the work: status, sentence, and headers."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Guard:
    def __init__(self, token: str, *, token_in_url: bool, calls_per_minute: int) -> None:
        self._token = token.encode()
        self._token_in_url = token_in_url
        self._calls = Bucket(calls_per_minute)
        # Wrong tokens have a limit of their own, so that guessing can't keep out callers with the right token.
        self._wrong = Bucket(WRONG_TOKENS_PER_MINUTE)

    async def check(self, request: Request) -> None:
        """Raises Refusal."""
        try:
            self._check_token(request)
            if seconds := self._calls.take():
                wait = counted(seconds, "second")
                raise Refusal(429, f"Too many calls; try again in {wait}.", retry_after=str(seconds))
        except Refusal:
            await _drain(request, DRAIN_BYTES, DRAIN_SECONDS)
            raise
        await _check_body(request)

    def _check_token(self, request: Request) -> None:
        given = self._given(request)
        if given is not None and hmac.compare_digest(given, self._token):
            return
        if seconds := self._wrong.take():
            wait = counted(seconds, "second")
            raise Refusal(429, f"Too many wrong tokens; try again in {wait}.", retry_after=str(seconds))
        sentence = "The header Authorization: Bearer <CLEANUP_TRIGGER_TOKEN> is missing or wrong."
        if given is None and not self._token_in_url and b"token=" in request.scope["query_string"]:
            sentence = "The token in the address is not looked at, because TRIGGER_TOKEN_IN_URL is off. " + sentence
        raise Refusal(401, sentence, www_authenticate="Bearer")

    def _given(self, request: Request) -> bytes | None:
        """What was sent as a token; None where nothing was, or more than one."""
        headers = [value for name, value in request.scope["headers"] if name == b"authorization"]
        if headers:
            scheme, _, token = headers[0].partition(b" ")
            return token.strip(b" ") if len(headers) == 1 and scheme.lower() == b"bearer" else None
        if not self._token_in_url:
            return None
        # Latin-1 maps every byte to itself.
        query = parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        tokens = [value for name, value in query if name == "token"]
        return tokens[0].encode("latin-1") if len(tokens) == 1 else None


async def _check_body(request: Request) -> None:
    lengths = [value for name, value in request.scope["headers"] if name == b"content-length"]
    if lengths and lengths[0].isdigit() and int(lengths[0]) > BODY_BYTES:
        await _drain(request, DRAIN_BYTES, DRAIN_SECONDS)
        raise Refusal(413, f"The body is larger than {BODY_BYTES} bytes; it needs none.")
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > BODY_BYTES:
                    break
    except TimeoutError:
        raise Refusal(408, f"The body did not arrive within {BODY_SECONDS:.0f} seconds; it needs none.") from None
    if size > BODY_BYTES:
        await _drain(request, DRAIN_BYTES, DRAIN_SECONDS)
        raise Refusal(413, f"The body is larger than {BODY_BYTES} bytes; it needs none.")


async def _drain(request: Request, most_bytes: int, most_seconds: float) -> None:
    seen = 0
    try:
        async with asyncio.timeout(most_seconds):
            while seen < most_bytes:
                message = await request.receive()
                seen += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except (TimeoutError, ClientDisconnect):
        return
