"""What changed in the schema, as Korean text for operators."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.schema.migrate.commands import Result


def migration_report(result: Result, at: datetime) -> str:
    """The report of a run that applied or took back migrations, or would; one line if nothing was left to do."""
    if not result.plan.migrations:
        return "✅ 적용할 스키마 마이그레이션이 없습니다."
    names = ", ".join(f"`{m.revision}`" for m in result.plan.migrations)
    verb = "적용" if result.plan.up else "되돌림"
    lines = [
        "🛠 *스키마 마이그레이션*",
        f"- 데이터베이스: `{result.plan.database}`",
        f"- {verb}{' 예정' if result.dry_run else ''}: {names}",
    ]
    if result.dump:
        lines.append(f"- 직전 덤프: `{result.dump}`")
    lines += [f"- 확인 필요: {len(result.plan.hindrances)}건 (실행 화면 참고)"] if result.plan.hindrances else []
    return "\n".join([*lines, f"- 실행 시간: {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"])
