"""What runs work with: the log table and the storage, opened from the settings of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from saju_ops.settings import load_settings

if TYPE_CHECKING:
    from saju_ops.archive.engines import LogStore
    from saju_ops.storage import Storage


class LogDatabase(dg.ConfigurableResource):
    """The conversation log's table at DATABASE_URL."""

    def open(self) -> LogStore:
        from saju_ops.archive.engines import open_log_store

        settings = load_settings()
        return open_log_store(settings.database_url, settings.conversation_log_table, settings.database_timezone)


class BackupStorage(dg.ConfigurableResource):
    """Where backups live: BACKUP_URI."""

    def open(self) -> Storage:
        from saju_ops.storage import open_storage

        return open_storage(load_settings().backup_uri)
