"""Small tables and charts for metadata. Dagster's UI shows Markdown and images in it, not raw SVG."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping


def hours_and_roles(hours: Counter[tuple[str, str]]) -> str:
    """A Markdown table of rows per hour of the day and role."""
    if not hours:
        return "No rows."
    roles = sorted({role for _, role in hours})
    lines = [f"| hour | {' | '.join(roles)} | all |", "|---|" + "---:|" * (len(roles) + 1)]
    for hour in sorted({hour for hour, _ in hours}):
        counts = [hours[hour, role] for role in roles]
        lines.append(f"| {hour} | {' | '.join(f'{n:,}' for n in counts)} | {sum(counts):,} |")
    totals = [sum(n for (_, r), n in hours.items() if r == role) for role in roles]
    lines.append(f"| **all** | {' | '.join(f'**{n:,}**' for n in totals)} | **{sum(totals):,}** |")
    return "\n".join(lines)


def bar_chart(values: Mapping[str, int], title: str, width: int = 640, height: int = 140) -> str:
    """A bar chart as a Markdown image; the keys are the bars' labels, of which the first and last are shown."""
    top, bottom = 18, 16
    most = max(values.values(), default=0) or 1
    step = width / max(1, len(values))
    bars = []
    for i, (label, value) in enumerate(values.items()):
        tall = (height - top - bottom) * value / most
        bars.append(
            f'<rect x="{i * step:.1f}" y="{height - bottom - tall:.1f}" width="{max(1.0, step - 2):.1f}"'
            f' height="{tall:.1f}" fill="#4f43dd"><title>{label}: {value:,}</title></rect>'
        )
    labels = list(values) or [""]
    text = 'font-family="sans-serif" font-size="11" fill="#71717a"'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{"".join(bars)}'
        f'<line x1="0" x2="{width}" y1="{height - bottom}" y2="{height - bottom}" stroke="#a1a1aa"/>'
        f'<text x="0" y="12" {text}>{title}: at most {most if values else 0:,}</text>'
        f'<text x="0" y="{height - 3}" {text}>{labels[0]}</text>'
        f'<text x="{width}" y="{height - 3}" text-anchor="end" {text}>{labels[-1]}</text></svg>'
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
