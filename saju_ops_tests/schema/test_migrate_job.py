"""`saju-ops migrate`, the job `migrate_schema` and the check `schema_matches`, as their users call them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from saju_ops.cli.main import main
from saju_ops.definitions import defs
from saju_ops.reports.titles import JOBS
from saju_ops_tests.schema.scene import MAIN, add_metrics, address, by_hand, recorded, run, tables, up


@pytest.fixture(params=["mariadb", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    address(url)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("BACKUP_URI", str(tmp_path / "backups"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return url


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["migrate", *arguments])


def dump() -> None:
    ended = CliRunner().invoke(main, ["dump"])
    assert ended.exit_code == 0, ended.output


def test_the_commands_from_nothing_up_to_nothing_down(url: str) -> None:
    assert "No migration is applied" in cli("status").output
    assert "CREATE TABLE" in cli("sql").output
    dry = cli("up", "--dry-run")
    assert "CREATE TABLE" in dry.output
    assert "Nothing was touched (--dry-run)." in dry.output
    assert tables(url) == set()
    done = cli("up")
    assert done.exit_code == 0, done.output
    assert f"2 migrations applied ({', '.join(MAIN)})" in done.output
    assert re.findall(r"^  (\S+) +applied ", cli("status").output, re.MULTILINE) == MAIN
    dump()
    back = cli("down", "base")
    assert "2 migrations taken back" in back.output, back.output
    assert tables(url) == {"alembic_version"}


def test_down_without_a_proven_dump_is_refused_and_names_the_command_that_makes_one(url: str) -> None:
    up(url)
    assert "Hindrance: " in (dry := cli("down", "base", "--dry-run").output)
    assert "`saju-ops dump`" in dry
    refused = cli("down", "base")
    assert refused.exit_code == 1
    assert "`saju-ops dump`" in refused.output
    assert recorded(url) == MAIN


def test_dropping_indexes_alone_asks_for_no_dump(url: str) -> None:
    up(url)
    assert cli("down", "-1").exit_code == 0
    assert recorded(url) == MAIN[:1]


@pytest.mark.long
def test_a_table_that_has_rows_is_dropped_only_by_its_name(url: str) -> None:
    up(url)
    add_metrics(url, 3)
    dump()
    refused = cli("down", "base")
    assert "system_metrics has 3 rows" in refused.output
    assert "--drop-data system_metrics" in refused.output
    assert "system_metrics" in tables(url)
    other = cli("down", "base", "--drop-data", "users", "--drop-data", "system_metrics")
    assert other.exit_code == 0, other.output
    assert tables(url) == {"alembic_version"}


def test_a_name_that_is_not_dropped_is_refused(url: str) -> None:
    up(url)
    assert "which this does not drop" in cli("down", "-1", "--drop-data", "users").output
    assert recorded(url) == MAIN


def test_rows_that_come_after_the_look_keep_their_table(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from saju_ops.schema.migrate import commands

    up(url)
    dump()
    original = commands.require_dump

    def meanwhile(*arguments: Any) -> str:
        file = original(*arguments)
        if "sqlite" not in url:  # there this run has the lock already
            add_metrics(url, 1)
        return file

    monkeypatch.setattr(commands, "require_dump", meanwhile)
    ended = cli("down", "base")
    if "sqlite" in url:
        assert ended.exit_code == 0
        return
    assert "rows came into system_metrics since this began" in ended.output
    assert run(url, "SELECT count(*) FROM system_metrics")[0][0] == 1


@pytest.mark.long
def test_a_history_made_by_hand_stays_on_the_way_down(url: str) -> None:
    by_hand(url)
    assert cli("adopt").exit_code == 0
    dump()
    assert cli("down", "base").exit_code == 0
    assert recorded(url) == ["1.0.0", "1.10.0", "1.2.0"]
    shown = cli("status").output
    assert shown.index("1.2.0") < shown.index("1.10.0")
    assert "never executed" in shown
    assert "DROP DATABASE saju;" in shown
    assert cli("up").exit_code == 0


def test_a_table_of_the_services_own_that_references_one_of_ours_keeps_it(url: str) -> None:
    up(url)
    run(url, "CREATE TABLE favourites (id int, user_id varchar(255), FOREIGN KEY (user_id) REFERENCES users (user_id))")
    dump()
    refused = cli("down", "base")
    assert refused.exit_code == 1
    assert "favourites references it" in refused.output
    assert recorded(url) == MAIN


@pytest.mark.parametrize("target", ["0009", "no_such@head", "partitions"])
def test_a_target_that_is_not_there_is_named_with_those_that_are(url: str, target: str) -> None:
    refused = cli("up", target)
    assert refused.exit_code == 1
    assert "0002_indexes" in refused.output


def test_a_database_of_a_newer_version_is_left_alone(url: str) -> None:
    up(url)
    run(url, "UPDATE alembic_version SET version_num = '0999_later'")
    assert "does not know" in cli("up").output
    assert "does not know" in cli("status").output


@pytest.mark.long
def test_adopt_lists_what_differs_and_ends_with_1(url: str) -> None:
    by_hand(url)
    on = "" if "sqlite" in url else " ON users"
    run(url, f"DROP INDEX ix_users_last_login{on}")
    refused = cli("adopt")
    assert refused.exit_code == 1
    assert "Differs: users has no index on (last_login)." in refused.output
    assert cli("adopt", "--accept-differences").exit_code == 0


# --- the job and the check -------------------------------------------------------------------------------------


class Ran:
    def __init__(self, **config: Any) -> None:
        instance = dg.DagsterInstance.ephemeral()
        job = defs().resolve_job_def("migrate_schema")
        result = job.execute_in_process(
            instance=instance, raise_on_error=False, run_config={"ops": {"migrate_schema": {"config": config}}}
        )
        self.success = result.success
        logs = instance.all_logs(result.run_id)
        self.text = "\n".join(dg.serialize_value(entry) for entry in logs)
        outputs = [
            e.dagster_event for e in logs if e.dagster_event and e.dagster_event.event_type_value == "STEP_OUTPUT"
        ]
        self.metadata: dict[str, Any] = (
            {k: v.value for k, v in outputs[0].step_output_data.metadata.items()} if outputs else {}
        )


def test_the_job_by_hand_prints_the_sql_and_changes_nothing(url: str) -> None:
    ran = Ran()
    assert ran.success
    assert ran.metadata["dry_run"] is True
    assert "CREATE TABLE" in ran.metadata["sql"]
    assert "report" not in ran.metadata
    assert tables(url) == set()


def test_the_job_applies_and_reports_what_it_did(url: str) -> None:
    ran = Ran(dry_run=False)
    assert ran.success, ran.text
    assert ran.metadata["changed"] == ", ".join(MAIN)
    assert "스키마 마이그레이션" in ran.metadata["report"]
    assert recorded(url) == MAIN
    again = Ran(dry_run=False)
    assert again.metadata["migrations_changed"] == 0
    assert "report" not in again.metadata
    password = sa.make_url(url).password
    assert not password or str(password) not in ran.text + again.text


def test_the_job_takes_back_down_to_a_target_that_is_applied(url: str) -> None:
    up(url)
    ran = Ran(dry_run=False, target="0001_tables")
    assert ran.metadata["direction"] == "down"
    assert recorded(url) == MAIN[:1]
    failed = Ran(dry_run=False, target="base", drop_data=[])
    assert not failed.success
    assert "`saju-ops dump`" in failed.text
    assert recorded(url) == MAIN[:1]


def checked(asset: str) -> tuple[bool, dict[str, Any]]:
    from saju_ops.defs.schema.migrate import check_result

    result = check_result(asset == "conversation_logs")
    return result.passed, {k: getattr(v, "value", v) for k, v in (result.metadata or {}).items()}


@pytest.mark.long
def test_the_check_says_what_differs_from_the_applied_migrations(url: str) -> None:
    assert "No migration is applied" in checked("user_sessions")[1]["why"]
    up(url)
    assert checked("user_sessions")[0]
    assert checked("conversation_logs")[0]
    on = "" if "sqlite" in url else " ON conversation_logs"
    run(url, f"DROP INDEX ix_conversation_logs_role{on}")
    passed, metadata = checked("conversation_logs")
    assert not passed
    assert metadata["differing"] == "- conversation_logs has no index on (role)"
    assert checked("user_sessions")[0]


def test_the_check_and_the_job_are_in_the_definitions_with_a_korean_title() -> None:
    keys = {key for each in defs().asset_checks or [] for key in each.check_keys}  # type: ignore[union-attr]
    assert {key.asset_key.to_user_string() for key in keys if key.name == "schema_matches"} == {
        "conversation_logs", "user_sessions",
    }  # fmt: skip
    assert JOBS["migrate_schema"].title == "스키마 마이그레이션"
