"""Small tables and charts for metadata. Dagster's UI shows Markdown and images in it, not raw SVG."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping

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
        f'<text y="11">{title}, at most {max(shown.values()):,}</text>'
        f'<text y="114">{labels[0]} … {labels[-1]}</text></svg>'
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
