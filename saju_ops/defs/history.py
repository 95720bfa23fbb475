"""Notes in Dagster's history what a command made: materializations, checks and observations without a run.

Otherwise a dump taken by hand would count as overdue, a check that failed in the night would stay failed, and the next
schedule would ask for days again that are archived and purged. If there is no history (DAGSTER_HOME is not set and
`make dev` made none here), nothing is noted. If it can't be written, that is reported and changes nothing else: the
backup counts by its manifest, not by Dagster's history.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saju_ops.logins import hide_logins

if TYPE_CHECKING:
    import dagster as dg

    from saju_ops.archive.day import DayResult
    from saju_ops.archive.purge_plan import PurgeResult
    from saju_ops.chroma.snapshot import Snapshot
    from saju_ops.dumps.take import DumpRun
    from saju_ops.rows.table import Table

    Say = Callable[[str], None]

DEV_HOME = Path(".dagster_home")
BY_HAND = {"made_by": "saju-ops"}


def note_dumps(run: DumpRun, *, masked: bool, say: Say) -> None:
    def events() -> Iterable[Any]:
        import dagster as dg

        from saju_ops.defs.dumps import assets as dumps

        key, proof = (dumps.MASKED, dumps.MASKED_PROOF) if masked else (dumps.DUMP, dumps.PROOF)
        metadata = dumps.run_metadata(run, masked=masked)
        yield _made(key, metadata) if run.results else dg.AssetObservation(key, metadata={**metadata, **BY_HAND})
        sentences = [*run.problems.values(), *(r.message for r in run.unproven)]
        if run.results or run.differing:
            yield _checked(key, proof, not sentences, dumps.check_metadata(run, sentences))
        if run.results and not masked:
            views = dumps.views_check(run)
            yield _checked(key, dumps.VIEWS, views.passed, views.metadata, views.severity)

    _note(events, say)


def note_snapshot(snapshot: Snapshot, *, say: Say) -> None:
    def events() -> Iterable[Any]:
        from saju_ops.defs.chroma import assets as chroma

        yield _made(chroma.SNAPSHOT, chroma.snapshot_metadata(snapshot))
        yield _checked(chroma.SNAPSHOT, chroma.PROOF, True, chroma.proof_metadata(snapshot))

    _note(events, say)


def note_archive(
    done: Sequence[DayResult], table: Table, *, finished: bool, problem: str = "", say: Say
) -> None:  # fmt: skip
    """`problem`: what could not be proven. Days that the run didn't reach get no check result."""

    def events() -> Iterable[Any]:
        from saju_ops.defs.conversation_logs import asset as logs

        schema, rows = logs.column_schema(table), {}
        for result in done:
            rows[str(result.day)] = result.rows
            yield _made(logs.ARCHIVE, logs.day_metadata(result, table, schema, rows), str(result.day))
        totals = {"days": len(done), "rows_in_file": sum(r.rows for r in done),
                  "rows_written": sum(r.rows_written for r in done)}  # fmt: skip
        if finished or problem:
            why = {"error": problem} if problem else {}
            yield _checked(logs.ARCHIVE, logs.PROOF, not problem, {**totals, **why})

    if done or problem:
        _note(events, say)


def note_purge(result: PurgeResult, *, say: Say) -> None:
    def events() -> Iterable[Any]:
        import dagster as dg

        from saju_ops.defs.conversation_logs.asset import LOGS
        from saju_ops.defs.conversation_logs.purge import purge_metadata

        yield dg.AssetObservation(LOGS, metadata={**purge_metadata(result), **BY_HAND})

    _note(events, say)


def _made(key: dg.AssetKey, metadata: dict[str, Any], partition: str | None = None) -> Any:
    import dagster as dg

    return dg.AssetMaterialization(key, metadata={**metadata, **BY_HAND}, partition=partition)


def _checked(key: dg.AssetKey, name: str, passed: bool, metadata: Any, severity: Any = None) -> Any:
    import dagster as dg

    return dg.AssetCheckEvaluation(
        asset_key=key, check_name=name, passed=passed, severity=severity or dg.AssetCheckSeverity.ERROR,
        metadata={**dict(metadata), **BY_HAND},
    )  # fmt: skip


def dagster_home() -> Path | None:
    """Where Dagster's history is kept: DAGSTER_HOME, else what `make dev` made in the working folder."""
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else DEV_HOME.absolute()
    return home if home.is_dir() else None


def _note(events: Callable[[], Iterable[Any]], say: Say) -> None:
    home = dagster_home()
    if home is None:
        return
    try:
        with _instance(home) as instance:
            for event in events():
                instance.report_runless_asset_event(event)
    except Exception as error:
        why = hide_logins(str(error)).partition("\n")[0] or "no more is known"
        say(
            f"Note: Dagster's history in {home} can't be written ({type(error).__name__}: {why}). What was made counts"
            " all the same; the UI shows it once its schedule has run."
        )


@contextmanager
def _instance(home: Path) -> Iterator[dg.DagsterInstance]:
    import dagster as dg

    before = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        with dg.DagsterInstance.get() as instance:
            yield instance
    finally:
        if before is None:
            del os.environ["DAGSTER_HOME"]
