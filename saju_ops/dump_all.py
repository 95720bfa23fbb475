"""Dumps of every database that the settings name: what asset, job and command do alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saju_ops.dumps.take import DumpOptions, DumpRun
    from saju_ops.settings.settings import Settings
    from saju_ops.storage.open import Storage


def dump_all(settings: Settings, storage: Storage, options: DumpOptions, say: Callable[[str], None]) -> DumpRun:
    from saju_ops.dumps.take import dump_databases

    return dump_databases(settings.dumped_urls, storage, options, say=say)


def mask_all(settings: Settings, storage: Storage, options: DumpOptions, say: Callable[[str], None]) -> DumpRun:
    from saju_ops.masking.dump import mask_databases

    return mask_databases(
        settings.dumped_urls, storage, options, log_table=settings.conversation_log_table.rpartition(".")[2], say=say
    )
