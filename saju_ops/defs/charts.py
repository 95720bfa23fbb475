"""Small tables and charts for metadata. Dagster's UI shows Markdown and images in it, not raw SVG."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

# Markdown of a thousand characters or more is folded away behind a link (read in the UI of Dagster 1.13.27).
SHOWN_INLINE = 1000
BARS = 31


def hours_and_roles(hours: Counter[tuple[str, str]]) -> str:
    """A Markdown table of rows per hour of the day and role."""
    if not hours:
        return "No rows."
    roles = sorted({role for _, role in hours})
    lines = [f"|hour|{'|'.join(roles)}|all|", "|-|" + "-:|" * (len(roles) + 1)]
    for hour in sorted({hour for hour, _ in hours}):
        counts = [hours[hour, role] for role in roles]
        lines.append(f"|{hour}|{'|'.join(str(n) for n in counts)}|{sum(counts)}|")
    totals = [sum(n for (_, r), n in hours.items() if r == role) for role in roles]
    lines.append(f"|all|{'|'.join(str(n) for n in totals)}|{sum(totals)}|")
    return "\n".join(lines)


def bar_chart(values: Mapping[str, int], title: str) -> str:
    """A bar chart of the last 31 values as a Markdown image small enough to be shown in place."""
    shown = dict(list(values.items())[-BARS:])
    if not shown:
        return "No rows."
    most = max(shown.values()) or 1
    bars = "".join(f"M{9 + 20 * i} 99v-{round(80 * value / most)}" for i, value in enumerate(shown.values()))
    labels = list(shown)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="116" font-size="11" fill="#71717a">'
        f'<path d="{bars}" stroke="#4f43dd" stroke-width="14"/><path d="M0 100h620" stroke="#aaa"/>'
        f'<text y="11">{html.escape(title)}, at most {max(shown.values()):,}</text>'
        f'<text y="114">{html.escape(f"{labels[0]} … {labels[-1]}")}</text></svg>'
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def frame_table(frame: Any, code: Collection[str] = (), most: int = 200) -> str:
    """A pandas frame as a Markdown table; columns of numbers to the right, those named in `code` as code."""
    import pandas as pd

    if frame.empty:
        return "No rows."
    numbers = [pd.api.types.is_numeric_dtype(frame[name]) and frame[name].dtype != "boolean" for name in frame.columns]
    lines = [f"|{'|'.join(map(str, frame.columns))}|", "|" + "".join("-:|" if right else "-|" for right in numbers)]
    for row in frame.head(most).itertuples(index=False, name=None):
        cells = (_cell(value, name in code) for name, value in zip(frame.columns, row, strict=True))
        lines.append(f"|{'|'.join(cells)}|")
    if len(frame) > most:
        lines += ["", f"… and {len(frame) - most:,} more"]
    return "\n".join(lines)


def _cell(value: Any, code: bool) -> str:
    import pandas as pd

    if value is pd.NA or value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    text = " ".join(value.split()).replace("|", "\\|")
    if code:
        return "`" + text.replace("`", "'") + "`"
    return text.replace("<", "&lt;").replace("`", "'")
