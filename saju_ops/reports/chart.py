"""The weekly chart: how large the log table is, and how large it would be had nothing been archived away. A PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

WIDTH, HEIGHT = 800, 400
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 50, 40
GRID, INK, KEPT, GONE = "#e4e4e7", "#52525b", "#4f43dd", "#c9c5f7"


@dataclass(frozen=True)
class Point:
    day: date
    table_bytes: int
    # Removed by purges up to this day, since the first point.
    removed_bytes: int


def growth_png(points: Sequence[Point]) -> bytes:
    """800 by 400 pixels. The labels are English: Pillow's own font has no Korean letters. Empty without points."""
    if not points:
        return b""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    most = max(max(p.table_bytes + p.removed_bytes for p in points), 1)
    unit, name = _unit(most)
    draw.text((LEFT, 12), "Conversation log: table size, and without archiving", fill=INK, font=font)
    for step in range(5):
        y = _y(most * step / 4, most)
        draw.line([(LEFT, y), (WIDTH - RIGHT, y)], fill=GRID)
        draw.text((8, y - 7), f"{most * step / 4 / unit:,.1f} {name}", fill=INK, font=small)
    xs = [_x(i, len(points)) for i in range(len(points))]
    whole = [(x, _y(p.table_bytes + p.removed_bytes, most)) for x, p in zip(xs, points, strict=True)]
    table = [(x, _y(p.table_bytes, most)) for x, p in zip(xs, points, strict=True)]
    if len(points) == 1:
        (x, top), (_, middle) = whole[0], table[0]
        draw.rectangle([x - 20, top, x + 20, middle], fill=GONE)
        draw.rectangle([x - 20, middle, x + 20, _y(0, most)], fill=KEPT)
    else:
        draw.polygon([*whole, *reversed(table)], fill=GONE)
        draw.line(table, fill=KEPT, width=3)
    draw.text((LEFT, HEIGHT - 28), f"{points[0].day}", fill=INK, font=small)
    last = f"{points[-1].day}"
    draw.text((WIDTH - RIGHT - draw.textlength(last, font=small), HEIGHT - 28), last, fill=INK, font=small)
    for i, (colour, word) in enumerate(((KEPT, "in the table"), (GONE, "archived and removed (estimated)"))):
        x = LEFT + 160 + i * 130
        draw.rectangle([x, HEIGHT - 26, x + 12, HEIGHT - 16], fill=colour)
        draw.text((x + 18, HEIGHT - 29), word, fill=INK, font=small)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _x(index: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (index / (count - 1) if count > 1 else 0.5)


def _y(value: float, most: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / most


def _unit(most: float) -> tuple[float, str]:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if most >= unit:
            return unit, name
    return 1.0, "B"
