"""The asset that represents everything under BACKUP_URI."""

import dagster as dg

from saju_ops.defs.chroma.assets import SNAPSHOT
from saju_ops.defs.conversation_logs.asset import ARCHIVE
from saju_ops.defs.dumps.assets import DUMP, MASKED
from saju_ops.settings.settings import Settings

STORED = dg.AssetKey("stored_backups")
CHECK = "every_backup_reads_back"
OPENS = "archive_password_opens_every_backup"
POOL = "backup_retention"


def source_asset(settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        STORED,
        deps=[ARCHIVE, DUMP, MASKED, SNAPSHOT],
        description="Everything under BACKUP_URI: archives, dumps, snapshots, in every store. The job `verify_backups`"
        " reads it back weekly, and `prune_backups` deletes daily what the retention doesn't keep.\n\n"
        "**Restore** with `saju-ops restore-logs`, `restore-dump` and `restore-chroma`; see the asset of each.",
    )
