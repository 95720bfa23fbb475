"""The job that encrypts birth dates, its checks and schedules, as Dagster runs them; and `saju-ops keys check`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from saju_ops.cli.main import main
from saju_ops.definitions import defs
from saju_ops.dumps.take import DumpOptions, take_dump
from saju_ops.schema.birth_data.keys import parse_keys
from saju_ops.schema.masked_view import VIEW
from saju_ops.settings.load import SettingsError, load_settings
from saju_ops.storage.open import open_storage
from saju_ops_tests.defs.project import Run
from saju_ops_tests.schema.birth_data.scene import NEW_KEY, OLD_KEY, OTHER_KEY, UTC_ZONE, token
from saju_ops_tests.schema.birth_data.test_calculations import Calculations

JOB = "encrypt_birth_data"


@dataclasses.dataclass
class Service:
    """The chatbot in SQLite, a store, the definitions on them."""

    scene: Calculations
    folder: Path
    set: Callable[[str, str], None]

    def __post_init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()

    def dump(self) -> None:
        assert take_dump(self.scene.url, open_storage(str(self.folder)), DumpOptions(UTC_ZONE)).proven

    def run(self, **config: Any) -> Run:
        done = (
            defs()
            .resolve_job_def(JOB)
            .execute_in_process(
                instance=self.instance, raise_on_error=False, run_config={"ops": {JOB: {"config": config}}}
            )
        )
        return Run(self.instance, done.run_id)

    def checked(self) -> dict[str, tuple[bool, dict[str, Any]]]:
        done = defs().resolve_job_def("check_birth_data").execute_in_process(instance=self.instance)
        return Run(self.instance, done.run_id).checks()

    def tick(self, name: str) -> Any:
        definition = next(s for s in defs().schedules or [] if s.name == name)
        at = datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
        with dg.build_schedule_context(instance=self.instance, scheduled_execution_time=at) as context:
            return definition.evaluate_tick(context)  # type: ignore[union-attr, arg-type]


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    found = Service(Calculations(sqlite_url), tmp_path / "backups", monkeypatch.setenv)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("BACKUP_URI", str(found.folder))
    monkeypatch.setenv("ENCRYPTION_KEY", f"{NEW_KEY},{OLD_KEY}")
    found.scene.add("one", "two")
    found.scene.calculation(1, "one")
    return found


def keys_check() -> Result:
    return CliRunner().invoke(main, ["keys", "check"])


def test_by_hand_it_counts_and_on_request_encrypts(service: Service) -> None:
    metadata = service.run().outputs()
    assert (metadata["dry_run"], metadata["rows_encryptable"], metadata["rows_encrypted"]) == (True, 2, 0)
    service.dump()
    metadata = service.run(dry_run=False).outputs()
    plotted = ("rows_encrypted", "rows_in_the_clear", "rows_unreadable", "rows_left", "calculations_in_the_clear")
    assert [metadata[name] for name in plotted] == [2, 0, 0, 0, 1]
    assert metadata["seconds"] > 0
    assert "생년월일 암호화" in metadata["report"]
    assert "암호화 완료: 2건" in metadata["report"]
    assert [secret for secret in (NEW_KEY, OLD_KEY, "1990", "gAAAAA") if secret in str(metadata)] == []
    assert service.scene.hidden("one", NEW_KEY)["birth_datetime"].startswith("1990-05-05")
    again = service.run(dry_run=False).outputs()
    assert again["rows_encrypted"] == 0
    assert "암호화할 생년월일이 없습니다" in again["report"]


def test_without_a_proven_dump_of_today_the_run_fails_and_nothing_is_touched(service: Service) -> None:
    run = service.run(dry_run=False)
    assert not run.succeeded
    assert "The encryption of birth dates drops or rewrites data" in run.failure
    assert "saju-ops dump" in run.failure
    assert service.scene.session("one")[1] is None


def test_dates_of_expired_sessions_are_replaced_where_that_is_asked_for(service: Service) -> None:
    service.dump()
    service.scene.run("UPDATE user_sessions SET expires_at = '2025-01-01', last_activity = '2025-01-01'")
    metadata = service.run(dry_run=False).outputs()
    assert (metadata["calculations_replaced"], metadata["calculations_of_expired_sessions"]) == (0, 1)
    metadata = service.run(dry_run=False, replace_dates_of_expired=True).outputs()
    assert (metadata["calculations_replaced"], metadata["calculations_in_the_clear"]) == (1, 0)
    assert "만료된 세션의 계산 행 날짜 교체 완료: 1건" in metadata["report"]


def test_the_checks_say_what_is_unreadable_and_what_is_in_the_clear(service: Service) -> None:
    found = service.checked()
    assert found["birth_data_is_readable"][0] is True
    passed, metadata = found["birth_data_in_the_clear"]
    assert (passed, metadata["sessions_in_the_clear"], metadata["calculations_in_the_clear"]) == (False, 2, 1)
    service.dump()
    service.run(dry_run=False)
    assert {name: passed for name, (passed, _) in service.checked().items()} == {
        "birth_data_is_readable": True, "birth_data_in_the_clear": True,
    }  # fmt: skip
    service.set("ENCRYPTION_KEY", OTHER_KEY)
    passed, metadata = service.checked()["birth_data_is_readable"]
    assert (passed, metadata["rows_unreadable"], metadata["rows_encrypted_in_all"]) == (False, 2, 2)


def test_the_schedule_waits_for_the_first_run_by_hand_and_skips_without_a_key(service: Service) -> None:
    assert "The first run is by hand" in service.tick("encrypt_birth_data_daily").skip_message
    service.dump()
    service.run(dry_run=False, clear_plain=False)
    assert "The first run is by hand" in service.tick("encrypt_birth_data_daily").skip_message
    service.run(dry_run=False)
    (request,) = service.tick("encrypt_birth_data_daily").run_requests
    assert request.run_config["ops"][JOB]["config"]["dry_run"] is False
    service.set("ENCRYPTION_KEY", "")
    assert "ENCRYPTION_KEY is not set" in service.tick("encrypt_birth_data_daily").skip_message
    assert "ENCRYPTION_KEY is not set" in service.tick("check_birth_data_weekly").skip_message


def test_without_a_key_the_run_fails_and_says_how_to_make_one(service: Service) -> None:
    service.set("ENCRYPTION_KEY", "")
    run = service.run()
    assert not run.succeeded
    assert "ENCRYPTION_KEY is not set" in run.failure


@pytest.mark.parametrize("wrong", ["hunter2", f"{NEW_KEY},", f"{NEW_KEY};{OLD_KEY}", f"{NEW_KEY},short-one"])
def test_a_bad_key_is_refused_when_settings_load_and_not_shown(service: Service, wrong: str) -> None:
    service.set("ENCRYPTION_KEY", wrong)
    with pytest.raises(SettingsError, match=r"ENCRYPTION_KEY holds a value that is not shown.*Fernet keys") as refused:
        load_settings()
    assert [part for part in (NEW_KEY, OLD_KEY, "hunter2", "short-one") if part in str(refused.value)] == []


# --- saju-ops keys check -----------------------------------------------------------------------------------------


def test_keys_check_says_which_rows_need_which_key(service: Service) -> None:
    payload = {"birth_datetime": "1990-05-05T09:30:00"}
    service.scene.add("old", birth_datetime=None, birth_datetime_encrypted=token(payload, OLD_KEY))
    service.scene.add("new", birth_datetime=None, birth_datetime_encrypted=token(payload, NEW_KEY))
    new, old = parse_keys(f"{NEW_KEY},{OLD_KEY}")
    before = service.scene.run("SELECT * FROM user_sessions")
    done = keys_check()
    assert done.exit_code == 0, done.output
    assert f"Key 1 ({new.fingerprint}) encrypts, and opens 1 row of user_sessions." in done.output
    assert f"Key 2 ({old.fingerprint}) opens 1 row of user_sessions: keep it" in done.output
    assert "In the clear: 2 rows of user_sessions." in done.output
    assert "In the clear: 1 row of saju_calculations" in done.output
    assert NEW_KEY not in done.output
    assert service.scene.run("SELECT * FROM user_sessions") == before
    service.scene.encrypt(NEW_KEY, OLD_KEY)
    assert f"Key 2 ({old.fingerprint}) opens no row" in keys_check().output


def test_keys_check_ends_with_2_where_no_key_opens_a_row(service: Service) -> None:
    service.scene.add("lost", birth_datetime=None, birth_datetime_encrypted=token({"a": 1}, OTHER_KEY))
    service.scene.add("junk", birth_datetime=None, birth_datetime_encrypted="?")
    done = keys_check()
    assert done.exit_code == 2
    assert "NO KEY opens 2 rows of user_sessions (of them 1 hold no token at all)" in done.output
    service.set("ENCRYPTION_KEY", "")
    done = keys_check()
    assert done.exit_code == 2
    assert "ENCRYPTION_KEY is not set." in done.output


def test_keys_check_that_can_not_look_ends_with_1(service: Service) -> None:
    service.set("SESSIONS_TABLE", "no_such_table")
    assert keys_check().exit_code == 1


# --- saju-ops masked-view ----------------------------------------------------------------------------------------


def masked_view() -> Result:
    return CliRunner().invoke(main, ["masked-view"])


def test_masked_view_without_the_view_says_how_to_make_it(service: Service) -> None:
    done = masked_view()
    assert done.exit_code == 1
    assert "saju-ops migrate up masked_view@head" in done.output


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_masked_view_makes_the_account_and_a_salt_that_is_missing(
    engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    monkeypatch.setenv("DATABASE_URL", url)
    made = CliRunner().invoke(main, ["migrate", "up", "masked_view@head"])
    assert made.exit_code == 0, made.output
    scene = Calculations(url)
    scene.add("one")
    scene.run("DELETE FROM masked_view_salt")
    name = f"cli_{str(scene.url.database)[-12:]}"
    monkeypatch.setenv("DEVELOPER_USER", name)
    monkeypatch.setenv("DEVELOPER_PASSWORD", "only-for-developers-1")
    done = masked_view()
    try:
        assert done.exit_code == 0, done.output
        assert "The server drew a salt" in done.output
        assert f"may read {VIEW} and nothing else." in done.output
        assert f"{VIEW} shows 1 session." in done.output
        assert "only-for-developers-1" not in done.output
        assert "drew a salt" not in masked_view().output
    finally:
        drop = [f'DROP OWNED BY "{name}"', f'DROP ROLE "{name}"'] if engine == "postgres" else [
            f"DROP USER '{name}'@'%'"]  # fmt: skip
        for statement in drop:
            scene.run(statement)
