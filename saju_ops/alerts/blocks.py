"""Slack's form of a message: Block Kit with a plain-text fallback, within Slack's limits.

Limits (docs.slack.dev, reference of section, header and context blocks and of chat.postMessage): a section's text
3,000 characters, a context element's the same, 50 blocks a message, 40,000 characters of `text`. What is longer is cut
at a line's end and says how much was cut. Slack counts an escaped `&amp;` as five, so lengths are taken after escaping.
"""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from saju_ops.reports.message import Message, footer, utc_now

SECTION = 3000
BLOCKS = 50
TEXT = 40_000
# Sections for the text, out of 50 blocks; the rest is for the footer and later additions.
SECTIONS = 45
# A whole message may be no larger than this either, whatever the single limits say.
WHOLE = 38_000


def escaped(text: str) -> str:
    """`&`, `<` and `>` are Slack's only control characters: nobody is mentioned, nothing is linked."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def sections(text: str) -> list[str]:
    """Escaped text in pieces of a section, broken at line ends where there are any."""
    pieces: list[str] = []
    current = ""
    for line in text.split("\n"):
        for part in _parts(line):
            if current and len(current) + 1 + len(part) > SECTION:
                pieces.append(current)
                current = part
            else:
                current = f"{current}\n{part}" if current else part
    if current:
        pieces.append(current)
    return [p for p in pieces if p.strip()] or ["-"]


def _parts(line: str) -> list[str]:
    """A line in pieces that fit, never cut inside `&amp;`."""
    parts = []
    while len(line) > SECTION:
        end = SECTION
        amp = line.rfind("&", end - 5, end)
        if amp != -1 and ";" not in line[amp:end]:
            end = amp
        parts.append(line[:end])
        line = line[end:]
    return [*parts, line]


def cut(text: str, limit: int) -> str:
    """The text, cut to at most `limit` characters, at a line's end where possible, with the number of what was cut."""
    if len(text) <= limit:
        return text
    lines = text.split("\n")
    kept: list[str] = []
    room = limit - 60
    for line in lines:
        if room < len(line) + 1:
            break
        kept.append(line)
        room -= len(line) + 1
    if not kept:
        kept, gone = [text[: limit - 60].rsplit("&", 1)[0] if "&" in text[limit - 66 : limit - 60] else
                      text[: limit - 60]], 0  # fmt: skip
    else:
        gone = len(lines) - len(kept)
    characters = len(text) - sum(len(k) + 1 for k in kept) + 1
    what = f"{gone}줄, {characters}자" if gone else f"{characters}자"
    return "\n".join([*kept, f"… ({what} 생략)"])


def rendered(message: Message, zone: ZoneInfo, now: Any = None) -> dict[str, Any]:
    """`text` and `blocks` for chat.postMessage."""
    now = now or utc_now()
    body = cut(escaped(message.text), WHOLE)
    pieces = sections(body)
    if len(pieces) > SECTIONS:
        left_out = len(pieces) - SECTIONS + 1
        pieces = [*pieces[: SECTIONS - 1], f"… ({sum(map(len, pieces[-left_out:]))}자 생략)"]
    blocks: list[dict[str, Any]] = [{"type": "section", "text": {"type": "mrkdwn", "text": piece}} for piece in pieces]
    foot = [escaped(line) for line in footer(message, now, zone)]
    if message.link:
        foot.append(f"<{_link(message.link)}|실행 화면>")
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": cut(" · ".join(foot), SECTION)}]})
    return {"text": cut(f"{body}\n{' · '.join(foot)}", TEXT), "blocks": blocks}


def plain(message: Message, zone: ZoneInfo, now: Any = None) -> dict[str, Any]:
    """The same message, short and without blocks, for when Slack refuses the other form."""
    foot = " · ".join(footer(message, now or utc_now(), zone))
    return {"text": cut(f"{escaped(message.text)}\n{escaped(foot)}", 3500)}


def _link(address: str) -> str:
    return address.replace("|", "%7C").replace(">", "%3E").replace("<", "%3C").replace("&", "&amp;")
