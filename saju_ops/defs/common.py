"""What the definitions of several features share."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from saju_ops.errors import Refused
from saju_ops.settings.settings import Settings

if TYPE_CHECKING:
    from saju_ops.expired.batches import Outcome
    from saju_ops.rows.days import Day


def nothing_here(why: str, *, named: bool) -> dg.SkipReason:
    """For a schedule that finds no table. Raises Refused if a setting names the table: a skip would hide a mistyped
    name for ever, but a tick that fails is reported by the alerts."""
    if named:
        raise Refused(why)
    return dg.SkipReason(why)


def common_metadata(result: "Outcome") -> dict[str, Any]:
    """Metadata that runs on jobs and on sessions have in common."""
    return {
        "dry_run": result.dry_run,
        "rows": result.rows.total(),
        "rows_per_table": _table(result.rows, "table"),
        "rows_detached": result.detached.total(),
        "detached_per_table": _listed(result.detached),
        "why_they_stayed": _table(result.stayed, "reason"),
        "first_that_stayed": dg.MetadataValue.md(
            "\n".join(f"- `{name}`: {reason}" for name, reason in result.stayed_named) or "none"
        ),
        "expires_at_unreadable": result.unreadable,
        "orphan_rows": result.orphans.total(),
        "orphans_per_column": _listed(result.orphans),
        "problems": dg.MetadataValue.md("\n".join(f"- {p}" for p in result.problems[:20]) or "none"),
        "doubts": dg.MetadataValue.md("\n".join(f"- {d}" for d in result.doubts) or "none"),
        "batches": result.batches,
        "seconds": round(result.seconds, 3),
        "roots_per_second": round(result.deleted / result.seconds, 1) if result.seconds else 0.0,
        "stopped": result.stopped,
    }


def _listed(counts: Any) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "none"


def _table(counts: Any, title: str) -> dg.MetadataValue:
    lines = [f"|{name}|{count}|" for name, count in sorted(counts.items())]
    return dg.MetadataValue.md("\n".join([f"|{title}|number|", "|-|-:|", *lines]) if lines else "none")


SHOWN = 50


def _lines(items: list[str]) -> str:
    shown = [f"- {item}" for item in items[:SHOWN]]
    return "\n".join([*shown, f"- … and {len(items) - SHOWN} more"] if len(items) > SHOWN else shown) or "none"


def _day(text: str | None, name: str, settings: Settings) -> "Day | None":
    from saju_ops.rows.days import parse_day

    if text is None or not text.strip():
        return None
    try:
        return parse_day(text.strip(), settings.timezone)
    except ValueError:
        raise Refused(f"{name} is {text!r}; it may be a date as YYYY-MM-DD. Nothing was touched.") from None
