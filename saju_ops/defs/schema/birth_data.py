"""Birth dates in Dagster: the job that encrypts them, its checks of the live table, its schedule.

Dagster reads annotations when an op is defined, so this module can't postpone their evaluation.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from saju_ops.bounds import ChunkBirths, Most, PauseSeconds, RuntimeSeconds, bounds_of
from saju_ops.defs.expired.sessions import SESSIONS, why_not
from saju_ops.defs.interrupts import cancellable, raise_if_cancelled
from saju_ops.defs.launchpad import checked_at_launch
from saju_ops.defs.live_tables import observe, one_run_a_tick, refused_once
from saju_ops.defs.progress import log_progress
from saju_ops.defs.resources import BackupStorage
from saju_ops.defs.run_errors import without_secrets
from saju_ops.errors import OperatorError
from saju_ops.reports.birth_data import birth_data_report
from saju_ops.run_control import RunControl
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import Settings
from saju_ops.wiring import birth_tables
from saju_ops.words import counted, have

if TYPE_CHECKING:
    from saju_ops.schema.birth_data.look import BirthData
    from saju_ops.schema.birth_data.work import Found, Worked

JOB = "encrypt_birth_data"
POOL = "birth_data"
READABLE, IN_THE_CLEAR = "birth_data_is_readable", "birth_data_in_the_clear"
CHECK_JOB = "check_birth_data"
FIRST_BY_HAND = (
    "No birth date is encrypted alone yet. The first run is by hand, since a service that still reads birth_datetime"
    " finds NULL there: launch encrypt_birth_data with dry_run: false. After that, new sessions are encrypted daily."
)

FORMS = {"as_found": None, "double": True, "plain": False}


class EncryptConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="true: reads and counts, changes nothing. false: encrypts birth dates, and each clear one becomes"
        " NULL in the transaction that proved its token.",
    )
    clear_plain: bool = Field(
        default=True,
        description="true: birth_datetime becomes NULL. false: it stays beside its token, as long as the service still"
        " reads it there; then nothing is hidden yet.",
    )
    rotate: bool = Field(
        default=True,
        description="true: what an older key of ENCRYPTION_KEY encrypted is encrypted anew by the first. false: it is"
        " left, and the older key stays necessary.",
    )
    service_form: Literal["as_found", "double", "plain"] = Field(
        default="as_found",
        description="double: base64 around each token, as the service's own code writes them. plain: tokens alone."
        " as_found: as the tokens are that are there already; plain where there is none.",
    )
    replace_dates_of_expired: bool = Field(
        default=False,
        description="true: in saju_calculations, rows of expired sessions get a false birth that is computed from the"
        " key, and lose their lunar date; it can't be taken back but from a dump. false: they stay in the clear.",
    )
    chunk_rows: ChunkBirths = Field(
        default=2_000,
        description=f"Rows per transaction, {bounds_of(ChunkBirths)}. Larger is a little faster, and locks more rows at"
        " once.",
    )
    max_rows: Most | None = Field(
        default=None,
        description=f"Stop after so many changed rows, {bounds_of(Most)}; the next run continues. Empty: no limit.",
    )
    max_runtime_seconds: RuntimeSeconds | None = Field(
        default=None, description=f"Stop at a chunk's end after so long, {bounds_of(RuntimeSeconds)}. Empty: no limit."
    )
    pause_seconds: PauseSeconds = Field(
        default=0.0,
        description=f"Pause after each chunk, {bounds_of(PauseSeconds)}. Longer is easier on the service.",
    )


@checked_at_launch(EncryptConfig)
@dg.op(
    name="encrypt_births",
    pool=POOL,
    description="Encrypts the birth dates of sessions by the first key of ENCRYPTION_KEY, proves each by decrypting"
    " what the table holds, and rotates what older keys encrypted. Never overwrites what no key opens.",
)
@without_secrets
def encrypt_birth_data(context: dg.OpExecutionContext, config: EncryptConfig, backup_storage: BackupStorage) -> None:
    with refused_once():
        worked = _work(context, config, backup_storage)
    observe(context, SESSIONS, birth_metadata(worked))
    result = worked.encrypted
    verb = "would be" if result.dry_run else "were"
    log_progress(
        context.log,
        f"{counted(result.encrypted, 'birth date')} {verb} encrypted, {result.cleared:,} cleared beside their token,"
        f" {result.rotated:,} encrypted anew by the newest key; {result.left:,} left to the next run; in"
        f" {result.seconds:.1f} s; stopped: {result.stopped}.",
    )
    for sentence in _doubts(worked):
        context.log.warning(sentence)
    raise_if_cancelled(result.stopped)


def _work(context: dg.OpExecutionContext, config: EncryptConfig, backup: BackupStorage) -> "Worked":
    from saju_ops.schema.birth_data.encrypt import Options
    from saju_ops.schema.birth_data.work import work
    from saju_ops.schema.recent_dump import require_recent_dump

    settings = load_settings()
    options = Options(
        dry_run=config.dry_run, clear_plain=config.clear_plain, rotate=config.rotate, double=FORMS[config.service_form],
        chunk_rows=config.chunk_rows, max_rows=config.max_rows, max_runtime_seconds=config.max_runtime_seconds,
        pause_seconds=config.pause_seconds,
    )  # fmt: skip
    tables = birth_tables(settings)
    with cancellable() as should_stop:
        return work(
            tables, settings.encryption_keys, options, replace_dates=config.replace_dates_of_expired,
            now=datetime.now(UTC),
            require_dump=lambda: require_recent_dump(
                tables.url, backup.open(), datetime.now(UTC), "The encryption of birth dates"
            ),
            control=RunControl(should_stop, lambda r: context.log.debug(f"{counted(r.changed, 'row')} so far.")),
        )  # fmt: skip


def birth_metadata(worked: "Worked") -> dict[str, Any]:
    """The same plain numbers in every run, zeros included."""
    result, found, dates = worked.encrypted, worked.encrypted.found, worked.calculations
    real = 0 if result.dry_run else 1
    replaced = worked.replaced.replaced if worked.replaced else 0
    return {
        "dry_run": result.dry_run,
        "rows_encrypted": result.encrypted * real,
        "rows_encryptable": result.encrypted * (1 - real),
        "rows_cleared": result.cleared * real,
        "rows_rotated": result.rotated * real,
        "rows_left": result.left,
        "rows_in_the_clear": found.in_the_clear,
        "rows_unreadable": found.unreadable,
        "rows_differing": found.differing,
        "rows_not_dates": found.not_text,
        "rows_per_key": _per_key(worked),
        "calculations_in_the_clear": dates.in_the_clear,
        "calculations_of_expired_sessions": dates.of_expired,
        "calculations_replaced": replaced * real,
        "chunks": result.chunks,
        "seconds": round(result.seconds, 3),
        "rows_per_second": round(result.changed / result.seconds, 1) if result.seconds else 0.0,
        "stopped": result.stopped,
        "doubts": dg.MetadataValue.md("\n".join(f"- {d}" for d in _doubts(worked)) or "none"),
        "report": dg.MetadataValue.md(birth_data_report(worked, datetime.now(UTC)).replace("\n", "\n\n")),
    }


def _per_key(worked: "Worked") -> dg.MetadataValue:
    found = worked.encrypted.found.per_key
    lines = [f"|{key.place}|{key.fingerprint}|{found[key.place]}|" for key in worked.encrypted.keys]
    return dg.MetadataValue.md("\n".join(["|key|fingerprint|rows|", "|-:|-|-:|", *lines]))


def _doubts(worked: "Worked") -> list[str]:
    result, found = worked.encrypted, worked.encrypted.found
    doubts = []
    if found.unreadable:
        doubts.append(
            f"{counted(found.unreadable, 'row')} {have(found.unreadable)} a birth that no key of ENCRYPTION_KEY opens;"
            " none was overwritten. Add the key that encrypted them."
        )
    if found.differing:
        doubts.append(
            f"{counted(found.differing, 'row')} {have(found.differing)} a birth in the clear and another one, or more"
            " than a birth, encrypted; both were left. A person must see which is right."
        )
    if found.not_text:
        doubts.append(f"{counted(found.not_text, 'row')} {have(found.not_text)} a birth that is no text, and was left.")
    if result.triggers and not result.dry_run and result.changed:
        doubts.append(
            f"{counted(result.triggers, 'trigger')} of the service's own ran with each changed row; what they write,"
            " such as a time of change, is theirs."
        )
    return doubts


@dg.job(
    name=JOB,
    description="Encrypts the birth dates of sessions (ENCRYPTION_KEY) and rotates them to the newest key. By hand it"
    " only counts (dry_run: true). It needs a proven dump younger than a day, and can be cancelled at any time and"
    " launched again.",
)
def encrypt_birth_data_job() -> None:
    # The step bears the job's name, by which its config is addressed; a definition of that name would clash.
    encrypt_birth_data.alias(JOB)()


def encrypt_birth_data_schedule(settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="encrypt_birth_data_daily",
        job=encrypt_birth_data_job,
        cron_schedule=settings.encrypt_birth_data_cron,
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Encrypts birth dates of new sessions. Skips until the job was run by hand once, since a service"
        " that still reads birth_datetime finds NULL there; without ENCRYPTION_KEY; and where the database has no table"
        " of sessions.",
    )
    @without_secrets
    def encrypt_birth_data_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from saju_ops.schema.birth_data.work import is_begun

        current = load_settings()
        if (why := why_not(current)) is not None:
            return dg.SkipReason(why)
        if not current.encryption_keys:
            return dg.SkipReason("ENCRYPTION_KEY is not set, so nothing is encrypted.")
        if not is_begun(birth_tables(current)):
            return dg.SkipReason(FIRST_BY_HAND)
        return one_run_a_tick(context, "encrypt-birth-data", JOB, EncryptConfig(dry_run=False))

    return encrypt_birth_data_daily


# --- checks -------------------------------------------------------------------------------------------------


def checks() -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        name=READABLE,
        asset=SESSIONS,
        description="A key of ENCRYPTION_KEY opens every encrypted birth date. Severity ERROR: without its key a birth"
        " is lost; nothing overwrites it meanwhile. Reads only.",
    )
    @without_secrets
    def birth_data_is_readable() -> dg.AssetCheckResult:
        found, why = _looked()
        sessions = found.sessions if found else None
        return dg.AssetCheckResult(
            passed=not why and not (sessions and sessions.unreadable),
            severity=dg.AssetCheckSeverity.ERROR,
            metadata=_readable(sessions, why),
        )

    @dg.asset_check(
        name=IN_THE_CLEAR,
        asset=SESSIONS,
        description="Counts the births that stay in the clear, in user_sessions and in saju_calculations, where the"
        " service needs them. Severity WARN: it fails where ENCRYPTION_KEY is set and sessions are in the clear all the"
        " same, because the job doesn't run or doesn't succeed. Reads only.",
    )
    @without_secrets
    def birth_data_in_the_clear() -> dg.AssetCheckResult:
        found, why = _looked()
        clear = found.sessions.in_the_clear if found else 0
        return dg.AssetCheckResult(
            passed=not (clear and load_settings().encryption_keys),
            severity=dg.AssetCheckSeverity.WARN,
            metadata=_clear(found, why),
        )

    return [birth_data_is_readable, birth_data_in_the_clear]


def _looked() -> "tuple[Found | None, str]":
    """What is there, or why it can't be looked at; both empty where there is no such table."""
    from saju_ops.schema.birth_data.work import look

    settings = load_settings()
    if why_not(settings) is not None:
        return None, ""
    try:
        return look(birth_tables(settings), settings.encryption_keys, datetime.now(UTC)), ""
    except OperatorError as error:
        return None, str(error)


def _readable(found: "BirthData | None", why: str) -> dict[str, Any]:
    """The same plain numbers every time, zeros included."""
    return {
        "rows_unreadable": found.unreadable if found else 0,
        "rows_encrypted_in_all": found.encrypted if found else 0,
        "rows_differing": found.differing if found else 0,
        "why": why or "none",
    }


def _clear(found: "Found | None", why: str) -> dict[str, Any]:
    return {
        "sessions_in_the_clear": found.sessions.in_the_clear if found else 0,
        "calculations_in_the_clear": found.calculations.in_the_clear if found else 0,
        "calculations_of_expired_sessions": found.calculations.of_expired if found else 0,
        "calculations_replaced": found.calculations.replaced if found else 0,
        "why": why or "none",
    }


def check_job() -> Any:
    keys = [dg.AssetCheckKey(SESSIONS, name) for name in (READABLE, IN_THE_CLEAR)]
    return dg.define_asset_job(
        CHECK_JOB,
        selection=dg.AssetSelection.checks(*keys),
        description="Decrypts every birth date and counts what is in the clear: the checks birth_data_is_readable and"
        " birth_data_in_the_clear of user_sessions. Reads only.",
    )


def check_schedule(settings: Settings, job: Any) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="check_birth_data_weekly",
        job=job,
        cron_schedule="15 6 * * 0",
        execution_timezone=settings.timezone_name,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every Sunday at 06:15: decrypts every birth date, and counts what is in the clear. Skips where the"
        " database has no table of sessions, and without ENCRYPTION_KEY.",
    )
    @without_secrets
    def check_birth_data_weekly() -> dg.RunRequest | dg.SkipReason:
        current = load_settings()
        if (why := why_not(current)) is not None:
            return dg.SkipReason(why)
        if not current.encryption_keys:
            return dg.SkipReason("ENCRYPTION_KEY is not set, so nothing is looked at.")
        return dg.RunRequest()

    return check_birth_data_weekly
