"""What runs work with: the log table and the storage, opened from the settings of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from saju_ops.settings.load import load_settings

if TYPE_CHECKING:
    from saju_ops.rows.engines.open import RowStore
    from saju_ops.storage.open import Storage
    from saju_ops.storage.s3.address import S3Options


class LogDatabase(dg.ConfigurableResource):
    """The conversation log's table at DATABASE_URL."""

    def open(self) -> RowStore:
        from saju_ops.rows.engines.open import open_log_store

        settings = load_settings()
        return open_log_store(settings.database_url, settings.conversation_log_table, settings.database_timezone)


class BackupStorage(dg.ConfigurableResource):
    """Where backups live: BACKUP_URI."""

    def open(self, *, reading: bool = False, accept_unsealed: bool = False) -> Storage:
        """`reading` is for restores: one of two stores is enough. `accept_unsealed` is for restores and verifications,
        on request: it believes backups that no key of this installation sealed."""
        from saju_ops.wiring import open_backups

        accepted = ("all",) if accept_unsealed else ()
        return open_backups(load_settings(), reading=reading, accept_unsealed=accepted, make_client=_client_by_dagster)


def _client_by_dagster(options: S3Options) -> Any:
    """Called once a run needs S3: the import takes 1.6 s."""
    from saju_ops.defs.s3_resource import client_of

    return client_of(options)
