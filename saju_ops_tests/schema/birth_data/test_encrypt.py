"""A birth leaves the clear column only once its token was read back and decrypted; whatever else is there stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from saju_ops.errors import Busy, OperatorError, ProofFailed, Refused
from saju_ops.run_control import RunControl
from saju_ops.schema.birth_data.encrypt import LOCK
from saju_ops.schema.birth_data.rows import open_sessions
from saju_ops_tests.schema.birth_data.scene import (
    BORN,
    LAST,
    NEW_KEY,
    OLD_KEY,
    OTHER_KEY,
    UTC_ZONE,
    BirthScene,
    token,
)

TEXT = "1990-05-05T09:30:00"


@pytest.fixture
def scene(database_url: str) -> BirthScene:
    return BirthScene(database_url)


@pytest.fixture
def lite(sqlite_url: str) -> BirthScene:
    return BirthScene(sqlite_url)


@pytest.mark.long
def test_births_become_tokens_that_hold_them_exactly(scene: BirthScene) -> None:
    scene.add("one", "two", is_lunar=True)
    scene.add("leap", is_lunar=True, is_leap_month=True, birth_datetime=datetime(1903, 2, 28, 23, 59, 59))  # noqa: DTZ001
    scene.add("none", birth_datetime=None)
    result = scene.encrypt(NEW_KEY)
    assert (result.encrypted, result.left, result.stopped) == (3, 0, "finished")
    for name in ("one", "two"):
        assert scene.session(name)[0] is None
        # SQLAlchemy writes fractions into SQLite, whatever they are.
        text = f"{TEXT}.000000" if scene.engine.dialect.name == "sqlite" else TEXT
        assert scene.hidden(name, NEW_KEY) == {"birth_datetime": text, "is_lunar": True, "is_leap_month": False}
    assert scene.hidden("leap", NEW_KEY)["birth_datetime"].startswith("1903-02-28T23:59:59")
    assert scene.hidden("leap", NEW_KEY)["is_leap_month"] is True
    assert scene.session("none") == (None, None)
    assert (result.found.in_the_clear, result.found.per_key, result.found.unreadable) == (0, {1: 3}, 0)


FRACTIONS = {
    "mysql": "ALTER TABLE user_sessions MODIFY birth_datetime DATETIME(6), MODIFY is_lunar BOOL NULL,"
    " MODIFY is_leap_month BOOL NULL",
    "postgresql": "ALTER TABLE user_sessions ALTER is_lunar DROP NOT NULL, ALTER is_leap_month DROP NOT NULL",
}


@pytest.mark.long
def test_fractions_of_a_second_and_flags_that_say_nothing_survive(database_url: str) -> None:
    scene = BirthScene(database_url)
    dialect = scene.engine.dialect.name
    alter = FRACTIONS.get("mysql" if dialect == "mariadb" else dialect)
    if alter:
        scene.run(alter)
    flag = None if alter else False
    scene.add("s", birth_datetime=datetime(1990, 5, 5, 9, 30, 0, 250_001), is_lunar=flag, is_leap_month=flag)  # noqa: DTZ001
    scene.encrypt(NEW_KEY)
    assert scene.hidden("s", NEW_KEY) == {
        "birth_datetime": "1990-05-05T09:30:00.250001", "is_lunar": flag, "is_leap_month": flag,
    }  # fmt: skip


@pytest.mark.long
def test_an_encryption_makes_no_session_look_used(scene: BirthScene) -> None:
    scene.add("one", "two")
    scene.encrypt(OLD_KEY)
    scene.encrypt(NEW_KEY, OLD_KEY)
    rows = scene.run("SELECT created_at, updated_at, last_activity FROM user_sessions")
    assert [tuple(str(cell)[:19] for cell in row) for row in rows] == [(str(LAST),) * 3] * 2


@pytest.mark.long
def test_a_second_run_does_what_is_left_and_nothing_twice(scene: BirthScene) -> None:
    scene.add("one")
    scene.encrypt(NEW_KEY)
    before = scene.session("one")
    scene.add("two")
    result = scene.encrypt(NEW_KEY)
    assert (result.encrypted, result.rotated) == (1, 0)
    assert scene.session("one") == before
    assert scene.encrypt(NEW_KEY).changed == 0


@pytest.mark.long
def test_a_row_that_the_service_changes_meanwhile_is_taken_as_it_is_then(scene: BirthScene) -> None:
    scene.add("changed", "gone", "same")

    def meanwhile() -> None:
        scene.run("UPDATE user_sessions SET birth_datetime = '2001-02-03 04:05:06' WHERE session_id = 'changed'")
        scene.run("DELETE FROM user_sessions WHERE session_id = 'gone'")

    result = scene.encrypt(NEW_KEY, require_dump=meanwhile)
    assert scene.hidden("changed", NEW_KEY)["birth_datetime"].startswith("2001-02-03T04:05:06")
    assert scene.hidden("same", NEW_KEY)["birth_datetime"].startswith(TEXT)
    assert (result.encrypted, result.left, result.found.rows) == (2, 0, 2)


@pytest.mark.long
@pytest.mark.parametrize("column", ["is_lunar", "birth_datetime_encrypted"])
def test_a_change_of_another_column_of_the_birth_is_no_less_seen(scene: BirthScene, column: str) -> None:
    scene.add("s")
    value = token({"birth_datetime": TEXT, "name": "홍"}, OTHER_KEY) if column != "is_lunar" else True
    scene.encrypt(
        NEW_KEY, require_dump=lambda: scene.run(f"UPDATE user_sessions SET {column} = :value", value=value)  # noqa: S608
    )  # fmt: skip
    if column == "is_lunar":
        assert scene.hidden("s", NEW_KEY)["is_lunar"] is True
    else:  # what no key opens is never overwritten
        assert scene.session("s")[1] == value
        assert scene.session("s")[0] is not None


@pytest.mark.long
def test_a_birth_that_the_service_writes_later_takes_the_place_of_our_older_token(scene: BirthScene) -> None:
    scene.add("s")
    scene.encrypt(NEW_KEY)
    scene.run("UPDATE user_sessions SET birth_datetime = '2001-02-03 04:05:06'")
    result = scene.encrypt(NEW_KEY)
    assert (result.encrypted, result.found.differing) == (1, 0)
    assert scene.hidden("s", NEW_KEY)["birth_datetime"].startswith("2001-02-03T04:05:06")
    assert scene.session("s")[0] is None


@pytest.mark.long
def test_what_no_key_opens_is_never_overwritten_and_counted(scene: BirthScene) -> None:
    lost = token({"birth_datetime": TEXT}, OTHER_KEY)
    scene.add("lost", birth_datetime_encrypted=lost, birth_datetime=None)
    scene.add("both", birth_datetime_encrypted=lost)
    scene.add("junk", birth_datetime_encrypted="no token", birth_datetime=None)
    scene.add("known", birth_datetime_encrypted=token({"birth_datetime": TEXT}, NEW_KEY), birth_datetime=None)
    scene.add("clear")
    result = scene.encrypt(NEW_KEY)
    assert (result.encrypted, result.found.unreadable, result.found.no_token) == (1, 3, 1)
    assert [scene.session(name)[1] for name in ("lost", "both", "junk")] == [lost, lost, "no token"]
    assert scene.session("both")[0] is not None
    assert result.found.in_the_clear == 1


def test_a_clear_birth_beside_the_services_own_token_of_it_becomes_null(scene: BirthScene) -> None:
    stored = token({"birth": "1990-05-05 09:30", "lunar": False, "name": "홍"}, NEW_KEY, double=True)
    scene.add("s", birth_datetime_encrypted=stored)
    result = scene.encrypt(NEW_KEY)
    assert (result.cleared, result.encrypted) == (1, 0)
    assert scene.session("s") == (None, stored)


@pytest.mark.long
def test_a_clear_birth_beside_the_services_token_of_another_one_stays_with_it(scene: BirthScene) -> None:
    other = token({"birth_datetime": "1991-01-01T00:00:00", "name": "홍"}, NEW_KEY)
    unknown = token({"payload": "?"}, NEW_KEY)
    scene.add("other", birth_datetime_encrypted=other)
    scene.add("unknown", birth_datetime_encrypted=unknown)
    result = scene.encrypt(NEW_KEY)
    assert (result.changed, result.found.differing) == (0, 2)
    assert scene.session("other")[1] == other
    assert scene.session("unknown")[1] == unknown
    assert scene.session("other")[0] is not None


@pytest.mark.long
def test_rotation_keeps_the_writers_own_bytes_and_form(scene: BirthScene) -> None:
    mine = {"생년월일": TEXT, "x": 1}
    scene.add("plain", birth_datetime=None, birth_datetime_encrypted=token(mine, OLD_KEY))
    scene.add("double", birth_datetime=None, birth_datetime_encrypted=token(mine, OLD_KEY, double=True))
    scene.add("newest", birth_datetime=None, birth_datetime_encrypted=token(mine, NEW_KEY))
    before = scene.session("newest")
    assert scene.look(NEW_KEY, OLD_KEY).per_key == {1: 1, 2: 2}
    result = scene.encrypt(NEW_KEY, OLD_KEY)
    assert (result.rotated, result.found.per_key) == (2, {1: 3})
    assert scene.hidden("plain", NEW_KEY) == scene.hidden("double", NEW_KEY) == mine
    assert str(scene.session("plain")[1]).startswith("gAAAAA")
    assert str(scene.session("double")[1]).startswith("Z0FBQUFB")
    assert scene.session("newest") == before


def test_rotation_can_be_left_out(lite: BirthScene) -> None:
    lite.add("old", birth_datetime=None, birth_datetime_encrypted=token({"a": 1}, OLD_KEY))
    assert lite.encrypt(NEW_KEY, OLD_KEY, rotate=False).found.per_key == {2: 1}


@pytest.mark.parametrize(("there", "form"), [([], "gAAAAA"), ([False], "gAAAAA"), ([True], "Z0FBQUFB")])
def test_tokens_are_written_in_the_form_that_the_service_has(lite: BirthScene, there: list[bool], form: str) -> None:
    for double in there:
        stored = token({"birth_datetime": TEXT}, OLD_KEY, double=double)
        lite.add("theirs", birth_datetime=None, birth_datetime_encrypted=stored)
    lite.add("ours")
    lite.encrypt(NEW_KEY, OLD_KEY)
    assert str(lite.session("ours")[1]).startswith(form)


@pytest.mark.parametrize(("double", "form"), [(True, "Z0FBQUFB"), (False, "gAAAAA")])
def test_the_form_can_be_said(lite: BirthScene, double: bool, form: str) -> None:
    lite.add("s")
    lite.encrypt(NEW_KEY, double=double)
    assert str(lite.session("s")[1]).startswith(form)


@pytest.mark.long
def test_a_dry_run_counts_and_changes_nothing(scene: BirthScene) -> None:
    scene.add("clear")
    scene.add("old", birth_datetime=None, birth_datetime_encrypted=token({"a": 1}, OLD_KEY))
    before = scene.run("SELECT * FROM user_sessions ORDER BY session_id")
    result = scene.encrypt(NEW_KEY, OLD_KEY, dry_run=True, require_dump=lambda: pytest.fail("no dump is needed"))
    assert (result.encrypted, result.rotated, result.found.in_the_clear) == (1, 1, 1)
    assert scene.run("SELECT * FROM user_sessions ORDER BY session_id") == before


@pytest.mark.long
def test_the_clear_birth_can_stay_until_the_service_needs_it_no_more(scene: BirthScene) -> None:
    scene.add("s")
    assert scene.encrypt(NEW_KEY, clear_plain=False).found.in_the_clear == 1
    stored = scene.session("s")[1]
    assert scene.session("s")[0] is not None
    assert scene.encrypt(NEW_KEY, clear_plain=False).changed == 0
    assert scene.encrypt(NEW_KEY).cleared == 1
    assert scene.session("s") == (None, stored)


# --- refused before anything is touched -----------------------------------------------------------------------


def test_without_a_key_nothing_is_touched(lite: BirthScene) -> None:
    lite.add("s")
    with pytest.raises(Refused, match="ENCRYPTION_KEY is not set"):
        lite.encrypt()
    assert lite.session("s")[1] is None


@pytest.mark.long
def test_a_key_that_opens_none_of_what_is_there_is_refused(scene: BirthScene) -> None:
    scene.add("theirs", birth_datetime=None, birth_datetime_encrypted=token({"a": 1}, OLD_KEY))
    scene.add("clear")
    with pytest.raises(Refused, match=r"1 encrypted birth date, and no key of ENCRYPTION_KEY \(key 1: [0-9a-f]{8}\)"):
        scene.encrypt(NEW_KEY)
    assert scene.session("clear") == (scene.session("clear")[0], None)
    assert scene.encrypt(NEW_KEY, OLD_KEY).encrypted == 1


@pytest.mark.long
def test_without_a_proven_dump_nothing_is_touched(scene: BirthScene) -> None:
    def none_is_there() -> None:
        raise Refused("no proven dump")

    scene.add("s")
    with pytest.raises(Refused, match="no proven dump"):
        scene.encrypt(NEW_KEY, require_dump=none_is_there)
    assert scene.session("s")[1] is None
    assert scene.session("s")[0] is not None


def test_where_nothing_is_to_be_done_no_dump_is_asked_for(lite: BirthScene) -> None:
    lite.add("s", birth_datetime=None)
    lite.encrypt(NEW_KEY, require_dump=lambda: pytest.fail("nothing is changed"))


def test_a_table_without_the_column_is_refused(lite: BirthScene) -> None:
    lite.run("ALTER TABLE user_sessions DROP COLUMN birth_datetime_encrypted")
    with pytest.raises(Refused, match="has no column birth_datetime_encrypted"):
        lite.encrypt(NEW_KEY)


@pytest.mark.parametrize(
    "wrong", [{"chunk_rows": 0}, {"chunk_rows": 10_001}, {"max_rows": 0}, {"max_runtime_seconds": 0.5},
              {"pause_seconds": -1}],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_refused(lite: BirthScene, wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=rf"{next(iter(wrong))} is .*Nothing was touched"):
        lite.encrypt(NEW_KEY, **wrong)


# --- what fails in between -------------------------------------------------------------------------------------


TRIGGERS = {
    "mysql": "CREATE TRIGGER cutting BEFORE UPDATE ON user_sessions FOR EACH ROW SET NEW.birth_datetime_encrypted ="
    " LEFT(NEW.birth_datetime_encrypted, 100)",
    "sqlite": "CREATE TRIGGER cutting AFTER UPDATE OF birth_datetime ON user_sessions BEGIN UPDATE user_sessions SET"
    " birth_datetime_encrypted = substr(NEW.birth_datetime_encrypted, 1, 100) WHERE session_id = NEW.session_id; END",
}


@pytest.mark.long
def test_a_token_that_comes_back_cut_keeps_the_clear_birth(scene: BirthScene) -> None:
    dialect = scene.engine.dialect.name
    if dialect == "postgresql":
        scene.run(
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.birth_datetime_encrypted ="
            " left(NEW.birth_datetime_encrypted, 100); RETURN NEW; END'"
        )
        scene.run("CREATE TRIGGER cutting BEFORE UPDATE ON user_sessions FOR EACH ROW EXECUTE FUNCTION cut()")
    else:
        scene.run(TRIGGERS["mysql" if dialect == "mariadb" else dialect])
    scene.add("s")
    with pytest.raises(ProofFailed, match=r"1 row of user_sessions, and 0 of them.*every birth in it is as it was"):
        scene.encrypt(NEW_KEY)
    assert scene.session("s")[1] is None
    assert scene.session("s")[0] is not None


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_column_that_is_too_short_for_a_token_keeps_the_clear_birth(
    engine: str, request: pytest.FixtureRequest
) -> None:
    scene = BirthScene(request.getfixturevalue(f"{engine}_url"))
    change = "ALTER birth_datetime_encrypted TYPE" if engine == "postgres" else "MODIFY birth_datetime_encrypted"
    scene.run(f"ALTER TABLE user_sessions {change} VARCHAR(100)")
    scene.add("s")
    with pytest.raises(OperatorError, match=r"ended the encryption.*every birth in it is as it was") as refused:
        scene.encrypt(NEW_KEY)
    assert "gAAAAA" not in str(refused.value)
    assert scene.session("s")[1] is None
    assert scene.session("s")[0] is not None


@contextmanager
def held(scene: BirthScene, name: str) -> Iterator[None]:
    """A row that the service has changed and not yet committed."""
    import sqlalchemy as sa

    engine = sa.create_engine(scene.url)
    with engine.connect() as connection:
        connection.execute(
            sa.text("UPDATE user_sessions SET timezone = 'UTC' WHERE session_id = :name"), {"name": name}
        )
        yield
        connection.rollback()
    engine.dispose()


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres"])
def test_a_row_that_the_service_holds_is_left_and_the_others_are_encrypted(
    engine: str, request: pytest.FixtureRequest
) -> None:
    scene = BirthScene(request.getfixturevalue(f"{engine}_url"))
    scene.add(*(f"s{i}" for i in range(4)))
    with held(scene, "s2"):
        result = scene.encrypt(NEW_KEY)
    assert (result.encrypted, result.left, result.found.in_the_clear) == (3, 1, 1)
    assert scene.session("s2")[1] is None
    assert scene.encrypt(NEW_KEY).encrypted == 1


@pytest.mark.long
def test_two_at_once_are_kept_apart(scene: BirthScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.schema.birth_data.encrypt.LOCK_WAIT", 0.2)
    scene.add("s")
    with open_sessions(scene.url, "user_sessions", UTC_ZONE) as other, other.lock(LOCK, 1.0):
        with pytest.raises(Busy, match="Another run works on the birth dates"):
            scene.encrypt(NEW_KEY)
    assert scene.session("s")[1] is None


@pytest.mark.long
def test_a_limit_stops_between_two_chunks_and_the_next_run_continues(scene: BirthScene) -> None:
    scene.add(*(f"s{i}" for i in range(7)))
    result = scene.encrypt(NEW_KEY, chunk_rows=2, max_rows=3)
    assert (result.encrypted, result.stopped) == (3, "max_rows (3) reached")
    asked: list[int] = []

    def stop() -> str | None:
        asked.append(1)
        return "cancelled by the operator" if len(asked) > 2 else None

    result = scene.encrypt(NEW_KEY, chunk_rows=2, control=RunControl(stop))
    assert result.stopped == "cancelled by the operator"
    assert scene.encrypt(NEW_KEY, chunk_rows=2).finished
    assert scene.look(NEW_KEY).per_key == {1: 7}


# --- odd tables -----------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
@pytest.mark.parametrize(
    "alter",
    [
        "MODIFY session_id VARCHAR(255) COLLATE utf8mb4_bin, MODIFY birth_datetime_encrypted TEXT COLLATE utf8mb4_bin",
        "MODIFY session_id VARCHAR(255) CHARACTER SET latin1 COLLATE latin1_german1_ci,"
        " MODIFY birth_datetime_encrypted TEXT CHARACTER SET latin1",
        "MODIFY session_id VARCHAR(255) CHARACTER SET utf8mb3 COLLATE utf8mb3_unicode_ci, MODIFY is_lunar BIT(1)",
        "MODIFY session_id VARBINARY(255), MODIFY birth_datetime_encrypted VARCHAR(500) CHARACTER SET ascii",
        "MODIFY birth_datetime TIMESTAMP NULL",
    ],
)
def test_any_sort_order_and_type_of_the_columns_will_do(
    engine: str, alter: str, request: pytest.FixtureRequest
) -> None:
    scene = BirthScene(request.getfixturevalue(f"{engine}_url"))
    scene.run("ALTER TABLE saju_calculations DROP FOREIGN KEY fk_saju_calculations_session_id")
    scene.run("ALTER TABLE conversation_logs DROP FOREIGN KEY fk_conversation_logs_session_id")
    scene.run(f"ALTER TABLE user_sessions {alter}")
    scene.add("Straße", "s'2", birth_datetime_encrypted=None)
    result = scene.encrypt(NEW_KEY, chunk_rows=1)
    assert (result.encrypted, result.left) == (2, 0)
    rows = scene.run("SELECT birth_datetime, birth_datetime_encrypted FROM user_sessions")
    assert [row[0] for row in rows] == [None, None]
    assert scene.look(NEW_KEY).per_key == {1: 2}


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_zero_date_survives_as_it_is(engine: str, request: pytest.FixtureRequest) -> None:
    scene = BirthScene(request.getfixturevalue(f"{engine}_url"))
    scene.add("zero")
    with scene.engine.connect() as connection:
        connection.exec_driver_sql("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'")
        connection.exec_driver_sql("UPDATE user_sessions SET birth_datetime = '0000-00-00 00:00:00'")
    assert scene.encrypt(NEW_KEY).encrypted == 1
    assert scene.hidden("zero", NEW_KEY)["birth_datetime"] == "0000-00-00 00:00:00"
    assert scene.encrypt(NEW_KEY).changed == 0


def test_a_key_of_two_columns_and_a_uuid_will_do(postgres_url: str) -> None:
    scene = BirthScene(postgres_url)
    scene.run("DROP TABLE saju_analyses, saju_calculations, conversation_logs")
    scene.run("ALTER TABLE user_sessions ADD part int NOT NULL DEFAULT 3, DROP CONSTRAINT user_sessions_pkey")
    scene.run("ALTER TABLE user_sessions ALTER session_id TYPE uuid USING session_id::uuid, ADD PRIMARY KEY (part,"
              " session_id)")  # fmt: skip
    cells = "CAST(:name AS uuid), 'u', :born"
    statement = f"INSERT INTO user_sessions (session_id, user_id, birth_datetime) VALUES ({cells})"  # noqa: S608
    for number in range(3):
        scene.run(statement, name=f"00000000-0000-0000-0000-00000000000{number}", born=BORN)
    assert scene.encrypt(NEW_KEY, chunk_rows=1).encrypted == 3
    assert scene.look(NEW_KEY).per_key == {1: 3}


def test_numbers_and_bytes_in_sqlites_column_of_times_are_counted_and_left(lite: BirthScene) -> None:
    lite.add("number", "bytes", "text")
    lite.run("UPDATE user_sessions SET birth_datetime = 641892600 WHERE session_id = 'number'")
    lite.run("UPDATE user_sessions SET birth_datetime = x'00ff' WHERE session_id = 'bytes'")
    lite.run("UPDATE user_sessions SET birth_datetime = '1990년 5월' WHERE session_id = 'text'")
    result = lite.encrypt(NEW_KEY)
    assert (result.encrypted, result.found.not_text, result.found.in_the_clear) == (1, 2, 2)
    assert lite.run("SELECT typeof(birth_datetime) FROM user_sessions ORDER BY session_id") == [
        ("blob",), ("integer",), ("null",),
    ]  # fmt: skip
    assert lite.hidden("text", NEW_KEY)["birth_datetime"] == "1990년 5월"
