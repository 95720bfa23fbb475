"""The vector store, its snapshot and its size, as assets.

Dagster reads annotations when an asset is defined, so this module can't postpone their evaluation.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from saju_ops.defs.charts import bar_chart, frame_table
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError, ProofFailed
from saju_ops.reports.chroma import snapshot_report, usage_report
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.words import counted

if TYPE_CHECKING:
    from saju_ops.chroma.snapshot import Snapshot
    from saju_ops.chroma.usage import Usage

COLLECTIONS = dg.AssetKey("chroma_collections")
SNAPSHOT = dg.AssetKey("chroma_snapshot")
USAGE = dg.AssetKey("chroma_usage")
PROOF = "stored_snapshot_opens_whole"
POOL = "chroma_snapshot"

DESCRIPTION = """
Every collection of the vector store, as `chroma/chromadb_<time in Asia/Seoul>.tar.gz` under BACKUP_URI with a manifest
beside it; `.tar.gz.zip` when ARCHIVE_PASSWORD is set.

**Materializing** copies the folder CHROMA_DB_PATH while the chatbot uses it (under SQLite's own lock, for the time that
`locked_seconds` gives), or reads the server CHROMA_HOST through its API. A clone of the copy is opened in a scratch
folder and compared record by record, and the stored file, read back, must hold exactly the files that were opened. It
changes nothing, and loads no embedding model.

**Restore:** with the chatbot stopped `saju-ops restore-chroma --replace chroma_db --dry-run`, then without
`--dry-run`: the present folder is renamed, not deleted. `--at "2026-10-01 12:00"` for an older snapshot, `--into PATH`
or `--host H --port P` for another place; or the job `restore_chroma_snapshot`. Without saju_ops: `tar xzf` (after
`7z x` for an encrypted file) gives the folder `chroma_db` that Chroma opens.
"""


def source_asset(settings: Settings) -> dg.AssetSpec:
    where = (
        f"the Chroma server {settings.chroma_host}:{settings.chroma_port}"
        if settings.chroma_host
        else f"the folder `{settings.chroma_db_path}`"
    )
    return dg.AssetSpec(
        COLLECTIONS,
        description=f"The live collections of the chatbot's vector store, in {where}, which the service writes.\n\n"
        "**Restore** them from `chroma_snapshot` with `saju-ops restore-chroma`.",
    )


def snapshot_asset() -> dg.AssetsDefinition:
    @dg.asset(
        key=SNAPSHOT,
        deps=[COLLECTIONS],
        pool=POOL,
        description=DESCRIPTION,
        check_specs=[
            dg.AssetCheckSpec(
                PROOF,
                asset=SNAPSHOT,
                blocking=True,
                description="The stored file, read back, holds the files that Chroma opened in a scratch folder, each"
                " of the same SHA-256; they have the collections, counts, metadata, configuration, ids, documents and"
                " vectors that were copied, and their index finds the nearest neighbours of a sample (an index that"
                " takes more than CHROMA_PROOF_MEMORY_MB is searched in its files, not by Chroma; of a server,"
                " one is made of as many vectors as have room). Blocking: what fails is thrown away and taken again;"
                " when none can be proven, nothing is stored and the run fails.",
            )
        ],
    )
    @without_secrets
    def chroma_snapshot(
        context: dg.AssetExecutionContext, backup_storage: BackupStorage
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from saju_ops.chroma.snapshot import take_snapshot
        from saju_ops.wiring import source_of

        settings = load_settings()
        try:
            snapshot = take_snapshot(
                backup_storage.open(), source_of(settings), zone=settings.timezone, run_id=context.run.run_id,
                memory_mb=settings.chroma_proof_memory_mb, progress=lambda text: log_progress(context.log, text),
            )  # fmt: skip
        except ProofFailed as error:
            yield dg.AssetCheckResult(
                passed=False, check_name=PROOF, asset_key=SNAPSHOT,
                metadata={"records_compared": 0, "neighbours_share": 0.0, "error": str(error)},
            )  # fmt: skip
            raise dg.Failure(str(error), allow_retries=True) from error
        except OperatorError as error:
            raise dg.Failure(str(error), allow_retries=True) from error
        log_progress(context.log, f"{snapshot.location}: {counted(snapshot.records, 'record')}, proven.")
        yield dg.MaterializeResult(asset_key=SNAPSHOT, metadata=snapshot_metadata(snapshot))
        yield dg.AssetCheckResult(passed=True, check_name=PROOF, asset_key=SNAPSHOT, metadata=proof_metadata(snapshot))
        if snapshot.incomplete:
            raise dg.Failure(
                f"This snapshot is stored and proven, but not all is well. {snapshot.incomplete}", allow_retries=False
            )

    return chroma_snapshot


def proof_metadata(snapshot: "Snapshot") -> dict[str, Any]:
    proof = snapshot.manifest.proof
    numbers = ("records_compared", "neighbours_looked_for", "neighbours_found", "neighbours_share")
    return {**{k: proof[k] for k in numbers}, **{k: len(proof[k]) for k in ("searched_in_files", "not_indexed")}}


def snapshot_metadata(snapshot: "Snapshot") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    manifest, copied = snapshot.manifest, snapshot.copied
    counts = {c["name"]: int(c["count"]) for c in snapshot.collections}
    return {
        "dagster/uri": snapshot.location,
        "dagster/row_count": snapshot.records,
        "collections": len(counts),
        "records": snapshot.records,
        "bytes": manifest.stored_bytes,
        "content_bytes": manifest.content_bytes,
        "attempts": snapshot.attempts,
        "torn_copies": len(snapshot.torn),
        "files_copied_again": int(copied.get("files_copied_again", 0)),
        "locked_seconds": float(copied.get("locked_seconds", 0.0)),
        "waited_for_lock_seconds": float(copied.get("waited_for_lock_seconds", 0.0)),
        "copy_seconds": snapshot.copy_seconds,
        "store_seconds": snapshot.store_seconds,
        "proof_seconds": snapshot.proof_seconds,
        "neighbours_share": float(manifest.proof["neighbours_share"]),
        # Collections whose index Chroma did not load: CHROMA_PROOF_MEMORY_MB.
        "searched_in_files": len(manifest.proof["searched_in_files"]),
        # Some of these, for a server only: collections whose index is made when the snapshot is restored.
        "not_indexed": len(manifest.proof["not_indexed"]),
        # For a server only: how often it was read, and what changed in the last of these passes.
        "passes": int(copied.get("passes", 1)),
        "records_moving": int(copied.get("records_moving", 0)),
        "left_out": ", ".join(copied.get("left_out", [])) or "none",
        "copies_completed": len(snapshot.completed),
        "source": manifest.source,
        "documents_per_collection": dg.MetadataValue.md(_table(counts)),
        "report": dg.MetadataValue.md(snapshot_report(snapshot, datetime.now(UTC)).replace("\n", "\n\n")),
        **{f"documents/{name}": count for name, count in counts.items()},
    }


def _table(counts: dict[str, int]) -> str:
    return "\n".join(["|collection|documents|", "|-|-:|", *(f"|{n}|{c:,}|" for n, c in counts.items())])


def usage_asset() -> dg.AssetsDefinition:
    @dg.asset(
        key=USAGE,
        deps=[COLLECTIONS, SNAPSHOT],
        description="Documents per collection, bytes on disk and the age of the newest proven snapshot, as numbers that"
        " plot; the table of collections is stored as `reports/chroma_usage_<day in Asia/Seoul>.csv` under BACKUP_URI."
        " It only looks; nothing to **restore** here: see `chroma_snapshot`.",
    )
    @without_secrets
    def chroma_usage(context: dg.AssetExecutionContext, backup_storage: BackupStorage) -> dg.MaterializeResult[Any]:
        from saju_ops.chroma.usage import usage
        from saju_ops.database_reports.columns import csv_of
        from saju_ops.storage.stored_reports import store_report
        from saju_ops.wiring import source_of

        settings, now = load_settings(), datetime.now(UTC)
        try:
            found = usage(source_of(settings), backup_storage.open(reading=True), now=now)
            storage, frame = backup_storage.open(), collections_frame(found)
            stored = store_report(storage, "chroma_usage", now.astimezone(settings.timezone).date(), csv_of(frame))
        except OperatorError as error:
            raise dg.Failure(str(error), allow_retries=True) from error
        return dg.MaterializeResult(metadata=usage_metadata(found, now, frame, storage.location(stored.file)))

    return chroma_usage


def collections_frame(found: "Usage") -> Any:
    """A pandas frame with a row per collection."""
    import pandas as pd

    names = ("tenant", "database", "collection", "dimension", "documents")
    keys = ("tenant", "database", "name", "dimension", "count")
    frame = pd.DataFrame([{n: c.get(k) for n, k in zip(names, keys, strict=True)} for c in found.collections])
    return frame.reindex(columns=list(names)).astype({"dimension": "Int64", "documents": "Int64"})


def usage_metadata(found: "Usage", now: datetime, frame: Any, location: str) -> dict[str, Any]:
    counts = found.per_collection()
    return {
        "dagster/uri": location,
        "dagster/row_count": found.documents,
        "documents": found.documents,
        "collections": len(counts),
        "bytes_on_disk": found.bytes_on_disk,
        "database_bytes": found.database_bytes,
        "index_bytes": found.index_bytes,
        "waiting_writes": found.waiting_writes,
        "orphaned_folders": found.orphaned_folders,
        "orphaned_bytes": found.orphaned_bytes,
        "snapshots": found.snapshots,
        "snapshot_bytes": found.snapshot_bytes,
        # -1: there is none, so that the plot has no gap.
        "snapshot_age_hours": -1.0 if found.age_hours is None else found.age_hours,
        "newest_snapshot": found.newest.file if found.newest else "none",
        "source": found.source,
        "documents_per_collection": dg.MetadataValue.md(
            f"{bar_chart(counts, 'documents per collection')}\n\n{frame_table(frame)}"
        ),
        "report": dg.MetadataValue.md(usage_report(found, now).replace("\n", "\n\n")),
        **{f"documents/{name}": count for name, count in counts.items()},
    }
