"""Which old backups go: the policy, the floor, what counts as good, and what a killed deletion leaves."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from saju_ops.cli.main import main
from saju_ops.errors import OperatorError, Refused
from saju_ops.local_state import one_at_a_time, state_folder
from saju_ops.reports.backups import prune_report
from saju_ops.rows.days import parse_day
from saju_ops.storage.ledger import FILE as LEDGER
from saju_ops.storage.ledger import enter
from saju_ops.storage.local import LocalStorage
from saju_ops.storage.manifest import FORMAT, BackupManifest, Kind, backups, stamp, write_manifest
from saju_ops.storage.open import StorageError
from saju_ops.storage.seal import Seals
from saju_ops.upkeep.inventory import inventory
from saju_ops.upkeep.policy import Held, Policy, judge, years_after
from saju_ops.upkeep.prune import lock_of, prune
from saju_ops_tests.archive.scene import Scene

KST = ZoneInfo("Asia/Seoul")
NOW = datetime(2026, 11, 20, 19, 30, tzinfo=UTC)
FOLDER = {"database_dump": "database/", "chroma_snapshot": "chroma/", "masked_database_dump": "masked_database/"}


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "backups")


def put(
    storage: LocalStorage, days_old: float, *, kind: Kind = "database_dump", label: str = "app", proven: bool = True,
    manifest: bool = True, entered: bool = True,
) -> str:  # fmt: skip
    """As if this installation had taken and drilled it; `entered`: whether its ledger says so, too."""
    taken = NOW - timedelta(days=days_old)
    file = f"{FOLDER[kind]}{label}_{stamp(taken, KST)}{'.tar.gz' if kind == 'chroma_snapshot' else '.sql.gz'}"
    data = file.encode() * 20
    with storage.create(file) as writer:
        writer.write(data)
        writer.commit()
    sha = hashlib.sha256(data).hexdigest()
    if manifest:
        written = BackupManifest(
            kind, FORMAT, file, "s", "mysql", "9", taken.isoformat(), "gzip", "none", sha, len(data), sha,
            len(data), {}, proven, {}, "t", "r", taken.isoformat(),
        )  # fmt: skip
        write_manifest(storage, written)
        if entered:
            enter(written, NOW, pytest.fail)
    return file


def files(storage: LocalStorage) -> set[str]:
    return set(storage.names(""))


def run(storage: LocalStorage, policy: Policy | None = None, **more: Any) -> Any:
    return prune(storage, policy or Policy(7), **{"now": NOW, "zone": KST, "dry_run": False, **more})


def kept_days(storage: LocalStorage, kind: Kind = "database_dump") -> list[int]:
    return sorted(round((NOW - m.taken).total_seconds() / 86400) for m in backups(storage, kind))


# --- which proof counts ------------------------------------------------------------------------------------------


def test_garbage_that_calls_itself_proven_makes_no_genuine_dump_go(storage: LocalStorage) -> None:
    """A person who can write into the store made three newer ones, with manifests that agree with them."""
    genuine = {put(storage, age) for age in (20, 30, 40)}
    for age in (1, 2, 3):
        put(storage, age, entered=False)
    result = run(storage, Policy(7, minimum=1))
    assert {v.file for v in result.verdicts if v.to_delete} == genuine - {max(genuine)}
    assert max(genuine) in files(storage)


def test_garbage_alone_makes_nothing_go(storage: LocalStorage) -> None:
    for age in (1, 2, 3, 20, 30):
        put(storage, age, entered=False)
    before = files(storage)
    result = run(storage, Policy(7, minimum=1))
    assert files(storage) == before
    assert {v.why for v in result.verdicts} == {"younger than 7 days", "no newer proven backup is there"}


def test_backups_of_before_the_ledger_stay_until_enough_newer_ones_are_proven_here(storage: LocalStorage) -> None:
    older = [put(storage, age, entered=False) for age in (20, 21, 22, 23)]
    for age in (0.1, 1.1):
        put(storage, age)
    result = run(storage)
    assert set(older) <= files(storage)
    assert "has proven only 2 newer ones itself" in {v.file: v.why for v in result.verdicts}[older[0]]
    put(storage, 2.1)
    assert set(run(storage).deleted) == set(older)


@pytest.mark.parametrize("change", ["file", "time", "bytes"])
def test_what_the_ledger_knows_counts_under_its_name_and_time_and_with_its_bytes(
    storage: LocalStorage, change: str
) -> None:
    put(storage, 20)
    newest = put(storage, 1)
    (manifest,) = [m for m in backups(storage, "database_dump") if m.file == newest]
    for name in (manifest.name, newest):
        storage.delete(name)
    data = b"other bytes" if change == "bytes" else newest.encode() * 20
    sha = hashlib.sha256(data).hexdigest()
    taken = manifest.taken - timedelta(minutes=7) if change == "time" else manifest.taken
    file = newest if change != "file" else newest.replace("app_", "app_").replace(".sql.gz", ".sql.gz.zip")
    with storage.create(file) as writer:
        writer.write(data)
        writer.commit()
    write_manifest(
        storage,
        replace(manifest, file=file, taken_at=taken.isoformat(), stored_sha256=sha, stored_bytes=len(data)),
    )
    assert run(storage, Policy(7, minimum=1)).deleted == []


def test_with_a_key_its_seal_is_enough_and_without_it_nothing_is_known(tmp_path: Path) -> None:
    """Dumps are taken on one machine and pruned on another, whose ledger is empty."""
    sealed = LocalStorage(tmp_path / "sealed", seals=Seals(["a-key-of-thirty-two-characters-00"]))
    plain = LocalStorage(tmp_path / "plain")
    for age in (1, 2, 3, 20):
        for storage in (sealed, plain):
            put(storage, age, entered=False)
    assert len(run(sealed).deleted) == 1
    assert run(plain).deleted == []


def test_a_damaged_ledger_deletes_nothing_and_says_what_to_do(storage: LocalStorage, tmp_path: Path) -> None:
    for age in (1, 2, 3, 20):
        put(storage, age)
    before, ledger = files(storage), state_folder() / LEDGER
    kept = ledger.read_bytes()
    ledger.write_bytes(b"damaged" * 1000)
    try:
        with pytest.raises(OperatorError, match=r"ledger of proven backups .* If it is damaged, delete it"):
            run(storage)
        assert files(storage) == before
    finally:
        ledger.write_bytes(kept)


# --- the policy --------------------------------------------------------------------------------------------------


def test_backups_older_than_the_retention_go_manifest_and_file(storage: LocalStorage) -> None:
    for age in range(12):
        put(storage, age + 0.1)
    result = run(storage)
    assert kept_days(storage) == [0, 1, 2, 3, 4, 5, 6]
    assert len(files(storage)) == 14
    assert len(result.deleted) == 5
    assert result.freed_bytes > 0


def test_by_default_and_in_a_dry_run_nothing_is_deleted_and_every_reason_is_given(storage: LocalStorage) -> None:
    for age in (0, 1, 2, 3, 20):
        put(storage, age + 0.1)
    before = files(storage)
    result = prune(storage, Policy(7), now=NOW, zone=KST)
    assert files(storage) == before
    assert [v.why for v in result.going] == ["20 days old"]
    assert {v.why for v in result.staying} == {"younger than 7 days"}


def test_the_newest_of_each_kind_and_database_stay_whatever_their_age(storage: LocalStorage) -> None:
    for age in (100, 200, 300, 400, 500):
        put(storage, age)
        put(storage, age, label="other")
        put(storage, age, kind="chroma_snapshot", label="chromadb")
        put(storage, age, kind="masked_database_dump")
    run(storage)
    assert len(list(backups(storage, "database_dump"))) == 6
    assert kept_days(storage, "chroma_snapshot") == [100, 200, 300]
    assert kept_days(storage, "masked_database_dump") == [100, 200, 300]


def test_what_is_not_proven_does_not_count_toward_the_floor(storage: LocalStorage) -> None:
    for age in (10, 11, 12):
        put(storage, age, proven=False)
    for age in (20, 21, 22, 23):
        put(storage, age)
    run(storage)
    # The unproven ones have no newer proven one, so they stay; of the proven the newest three.
    assert kept_days(storage) == [10, 11, 12, 20, 21, 22]


def test_an_old_unproven_backup_is_deleted_if_there_is_a_newer_proven_one(storage: LocalStorage) -> None:
    put(storage, 30, proven=False)
    for age in (1, 2, 3):
        put(storage, age)
    run(storage)
    assert kept_days(storage) == [1, 2, 3]


def test_backups_that_a_wrong_clock_dated_into_the_future_protect_themselves_only(storage: LocalStorage) -> None:
    for age in (-2000, -2001, -2002, -2003, 20, 21, 22, 23):
        put(storage, age)
    result = run(storage)
    assert kept_days(storage) == [-2003, -2002, -2001, -2000, 20, 21, 22]
    assert {v.why for v in result.verdicts if v.taken and v.taken > NOW} == {"its time is in the future"}


def test_a_manifest_of_which_a_bit_flipped_decides_over_nothing(storage: LocalStorage) -> None:
    """Its time alone decides what is deleted: 2026 that became 2022 would be."""
    first = put(storage, 1)
    for age in (0, 2, 3):
        put(storage, age)
    manifest = Path(storage.location(first.replace(".sql.gz", ".manifest.json")))
    manifest.write_text(manifest.read_text().replace('"taken_at": "2026', '"taken_at": "2022'))
    result = run(storage)
    assert first in files(storage)
    assert any(manifest.name in text for text in result.strangers)


def test_daily_weekly_and_monthly_keep_the_newest_of_each(storage: LocalStorage) -> None:
    for age in range(120):
        put(storage, age + 0.01)
    run(storage, Policy(days=0, daily=5, weekly=4, monthly=3, minimum=1))
    left = [m.taken.astimezone(KST).date() for m in backups(storage, "database_dump")]
    today = NOW.astimezone(KST).date()
    assert {today - timedelta(days=n) for n in range(5)} <= set(left)
    assert len({d.isocalendar()[:2] for d in left}) >= 4
    assert len({(d.year, d.month) for d in left}) == 3
    assert len(left) <= 5 + 4 + 3


def test_days_and_weeks_are_those_of_the_zone(storage: LocalStorage) -> None:
    """23:30 and 00:30 in Seoul are two days, though one in UTC."""
    late = put(storage, 2 + 5 / 24)  # 23:30 on the 18th in Seoul
    early = put(storage, 2 + 4 / 24)  # 00:30 on the 19th
    for age in (0.1, 1.1):
        put(storage, age)
    run(storage, Policy(days=0, daily=4, minimum=1))
    assert {late, early} <= files(storage)


def test_an_empty_policy_is_refused(storage: LocalStorage) -> None:
    put(storage, 400)
    with pytest.raises(Refused, match="retention policy is empty"):
        run(storage, Policy(0))
    assert len(files(storage)) == 2


@given(
    ages=st.lists(st.tuples(st.floats(0, 400), st.booleans(), st.booleans()), max_size=25),
    policy=st.builds(
        Policy, days=st.integers(0, 60), daily=st.integers(0, 9), weekly=st.integers(0, 5),
        monthly=st.integers(0, 4), minimum=st.integers(1, 5),
    ),
)  # fmt: skip
def test_whatever_the_policy_the_floor_stays_and_a_newer_good_backup_follows_each_deleted_one(
    ages: list[tuple[float, bool, bool]], policy: Policy
) -> None:
    if not (policy.days or policy.daily or policy.weekly or policy.monthly):
        return
    held = [
        Held("database_dump", f"database/app_{n}.sql.gz", NOW - timedelta(days=age), 1, proven, whole)
        for n, (age, proven, whole) in enumerate(ages)
    ]
    verdicts = {v.file: v for v in judge(held, policy, NOW, KST)}
    assert len(verdicts) == len(held)
    good = sorted((h for h in held if h.good), key=lambda h: (h.taken, h.file), reverse=True)
    assert not any(verdicts[h.file].to_delete for h in good[: policy.minimum])
    stays = [h for h in good if not verdicts[h.file].to_delete]
    for h in held:
        if verdicts[h.file].to_delete:
            assert any(s.taken > h.taken for s in stays), "no backup is deleted without a newer good one that stays"
            assert policy.days == 0 or NOW - h.taken >= timedelta(days=policy.days)


# --- what is really there ----------------------------------------------------------------------------------------


def test_no_backup_of_a_database_is_deleted_when_its_newest_one_is_damaged(storage: LocalStorage) -> None:
    for age in (1, 2, 3, 20, 30):
        put(storage, age)
        put(storage, age, label="other")
    newest = Path(storage.location(f"database/app_{stamp(NOW - timedelta(days=1), KST)}.sql.gz"))
    data = bytearray(newest.read_bytes())
    data[5] ^= 1
    newest.write_bytes(data)
    result = run(storage)
    assert kept_days(storage) == [1, 1, 2, 2, 3, 3, 20, 30]
    assert len(result.problems) == 1
    assert "app: nothing was deleted" in result.problems[0]


def test_a_backup_whose_file_is_gone_or_short_is_not_relied_on(storage: LocalStorage) -> None:
    for age in (20, 21, 22, 23):
        put(storage, age)
    short, lost = put(storage, 1), put(storage, 2)
    Path(storage.location(short)).write_bytes(b"x")
    Path(storage.location(lost)).unlink()
    run(storage)
    assert kept_days(storage) == [1, 20, 21, 22]


def test_a_file_without_a_manifest_is_reported_and_deleted_after_a_day(storage: LocalStorage) -> None:
    young, old = put(storage, 0.99, manifest=False), put(storage, 1.01, manifest=False)
    result = run(storage)
    assert files(storage) == {young}
    assert {v.file: v.to_delete for v in result.strays} == {young: False, old: True}


def test_a_file_whose_manifest_is_damaged_stays(storage: LocalStorage) -> None:
    file = put(storage, 40)
    for age in (1, 2, 3):
        put(storage, age)
    manifest = Path(storage.location(file.replace(".sql.gz", ".manifest.json")))
    manifest.write_text("{")
    result = run(storage)
    assert file in files(storage)
    assert "can't be read" in result.strangers[0]


def test_what_somebody_put_there_is_named_and_left(storage: LocalStorage) -> None:
    ours = ("database/notes.txt", "database/app_20200101_000000", "chroma/old.tar.gz")
    for name in (*ours, "elsewhere/x_20200101_000000.sql"):
        with storage.create(name) as writer:
            writer.commit()
    result = run(storage)
    assert len(files(storage)) == 4
    assert sorted(result.strangers) == sorted(ours)


def test_a_deletion_killed_between_manifest_and_file_leaves_no_backup_and_is_finished_later(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(storage, 20)
    for age in (1, 2, 3):
        put(storage, age)
    delete, calls = LocalStorage.delete, []

    def killed(self: LocalStorage, name: str) -> None:
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        delete(self, name)

    monkeypatch.setattr(LocalStorage, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        run(storage)
    monkeypatch.undo()
    assert calls[0].endswith(".manifest.json")
    assert kept_days(storage) == [1, 2, 3]
    assert old in files(storage)
    run(storage)
    assert old not in files(storage)


def test_a_kind_that_is_being_written_is_left_alone(storage: LocalStorage) -> None:
    for age in (1, 2, 3, 20):
        put(storage, age)
        put(storage, age, kind="chroma_snapshot", label="chromadb")
    with one_at_a_time(lock_of(storage, "chroma_snapshot")):
        result = run(storage)
    assert kept_days(storage) == [1, 2, 3]
    assert kept_days(storage, "chroma_snapshot") == [1, 2, 3, 20]
    assert "Another run works on" in result.problems[0]


class Two(LocalStorage):
    """Two folders as one storage, as BACKUP_URI with a comma makes it."""

    def __init__(self, one: LocalStorage, other: LocalStorage) -> None:
        super().__init__(one.root)
        self._both = (one, other)

    def copies(self) -> Any:
        return self._both


def test_a_backup_in_only_one_of_two_stores_counts_for_nothing_and_a_deleted_one_disappears_from_both(
    tmp_path: Path,
) -> None:
    one, other = LocalStorage(tmp_path / "one"), LocalStorage(tmp_path / "other")
    for age in (20, 21, 22, 23):
        put(one, age)
        put(other, age)
    put(one, 1)
    run(Two(one, other))
    assert kept_days(one) == [1, 20, 21, 22]
    assert kept_days(other) == [20, 21, 22]


@pytest.mark.parametrize("rotten", [0, 1])
def test_the_newest_backup_is_read_back_in_each_of_two_stores(tmp_path: Path, rotten: int) -> None:
    stores = [LocalStorage(tmp_path / "one"), LocalStorage(tmp_path / "other")]
    for store in stores:
        for age in (1, 2, 3, 20):
            put(store, age)
    newest = tmp_path / ("one", "other")[rotten] / f"database/app_{stamp(NOW - timedelta(days=1), KST)}.sql.gz"
    newest.write_bytes(newest.read_bytes()[::-1])
    result = run(Two(*stores))
    assert [kept_days(store) for store in stores] == [[1, 2, 3, 20]] * 2
    assert "nothing was deleted, since its newest backup fails" in result.problems[0]


def test_an_inventory_says_what_is_where(storage: LocalStorage) -> None:
    put(storage, 1)
    put(storage, 2, manifest=False)
    found = inventory(storage, "database_dump", KST)
    assert [(h.label, h.good) for h in found.held] == [("app", True)]
    assert len(found.strays) == 1


# --- archives ----------------------------------------------------------------------------------------------------


@pytest.fixture
def archived(storage: LocalStorage, sqlite_url: str) -> LocalStorage:
    Path(sqlite_url.removeprefix("sqlite:///")).touch()
    scene = Scene(sqlite_url, storage.root).create_table()
    for number, text in enumerate(("2020-02-29", "2024-01-01", "2026-09-01")):
        day = parse_day(text, KST)
        scene.add(3, first=1 + 10 * number, day=day)
        scene.archive(day)
    return storage


def test_archives_stay_for_ever_unless_years_are_set(archived: LocalStorage) -> None:
    before = files(archived)
    run(archived)
    assert files(archived) == before
    result = run(archived, Policy(7, archive_years=5))
    assert sorted(v.file for v in result.archives) == ["conversation_logs/2020/02/conversation_log_backup_20200229.csv"]
    assert len(before - files(archived)) == 2


def test_an_archive_that_the_store_does_not_give_stays_and_the_others_go(
    archived: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one in Glacier."""
    names = sorted(n for n in archived.names("conversation_logs/") if n.endswith(".manifest.json"))
    given = LocalStorage.open

    def frozen(self: LocalStorage, name: str) -> Any:
        if name == names[0]:
            raise StorageError(f"S3 could not read {name} (InvalidObjectState).")
        return given(self, name)

    monkeypatch.setattr(LocalStorage, "open", frozen)
    result = run(archived, Policy(7, archive_years=5))
    assert names[0] in files(archived)
    assert ["InvalidObjectState" in problem for problem in result.problems] == [True]


def test_the_oldest_part_of_a_day_is_deleted_first(storage: LocalStorage, sqlite_url: str) -> None:
    """What a kill leaves must not bring back a row as it was before it changed."""
    Path(sqlite_url.removeprefix("sqlite:///")).touch()
    scene, day = Scene(sqlite_url, storage.root).create_table(), parse_day("2020-02-29", KST)
    scene.add(3, day=day)
    scene.archive(day)
    scene.update("content = 'later'", "log_id = 1")
    scene.archive(day)
    before, lately = files(storage), parse_day("2026-10-01", KST)
    scene.add(1, first=50, day=lately)
    scene.archive(lately)
    result = run(storage, Policy(7, archive_years=5))
    assert [v.file.rpartition("/")[2] for v in result.archives] == [
        "conversation_log_backup_20200229.csv", "conversation_log_backup_20200229.part2.csv",
    ]  # fmt: skip
    assert not files(storage) & before


def test_a_clock_that_is_years_ahead_deletes_no_archive(archived: LocalStorage) -> None:
    before = files(archived)
    result = run(archived, Policy(7, archive_years=5), now=NOW + timedelta(days=3650))
    assert files(archived) == before
    (problem,) = result.problems
    assert "2036-11-17 by this machine's clock" in problem


def test_years_are_counted_on_the_calendar() -> None:
    assert years_after(datetime(2024, 2, 29, 15, tzinfo=UTC), 1) == datetime(2025, 3, 1, 15, tzinfo=UTC)
    assert years_after(datetime(2023, 5, 1, tzinfo=UTC), 3) == datetime(2026, 5, 1, tzinfo=UTC)


# --- as operators see it -----------------------------------------------------------------------------------------


def test_the_command_lists_and_deletes_only_on_request(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKUP_URI", str(storage.root))
    for age in (400, 500, 600, 700):
        put(storage, age)
    said = CliRunner().invoke(main, ["prune"])
    assert said.exit_code == 0, said.output
    assert said.output.count("stays ") == 3
    assert said.output.count("is to be deleted") == 1
    assert len(files(storage)) == 8
    said = CliRunner().invoke(main, ["prune", "--apply"])
    assert "1 deleted" in said.output
    assert len(files(storage)) == 6
    monkeypatch.setenv("BACKUP_RETENTION_DAYS", "0")
    said = CliRunner().invoke(main, ["prune", "--apply"])
    assert (said.exit_code, "policy is empty" in said.output) == (1, True)


def test_the_report_is_korean_and_says_when_there_was_nothing_to_do(storage: LocalStorage) -> None:
    assert prune_report(run(storage), NOW) == "✅ 삭제할 오래된 백업이 없습니다. (보관 0개)"
    for age in (1, 2, 3, 20):
        put(storage, age)
    report = prune_report(run(storage), NOW)
    assert report.startswith("🧹 *오래된 백업 정리*\n- 삭제: 1개")
    assert "- 보관: 3개" in report


def test_backups_that_stay_unproven_for_nights_are_a_problem_that_prune_names(storage: LocalStorage) -> None:
    put(storage, 40)
    for age in (12, 8, 5, 3, 1):
        put(storage, age, proven=False)
    put(storage, 1, label="speech")
    (problem,) = run(storage).problems
    assert "database_dump app: none of the newest 5 backups is proven, since 2026-11-09" in problem
    assert 40 in kept_days(storage)


def test_a_night_or_two_without_a_proof_are_no_problem(storage: LocalStorage) -> None:
    put(storage, 9)
    for age in (2, 1):
        put(storage, age, proven=False)
    assert run(storage).problems == []
