"""However somebody's birth, number or id is written, and wherever: it stops the masked dump, and chance doesn't."""

# ruff: noqa: E501, S608 (tables of examples; the statements are this module's own)

from __future__ import annotations

import base64
import json
import re
import sqlite3
import unicodedata
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest

from saju_ops.database.connect import parse_database_url
from saju_ops.masking import dump as masked_dump
from saju_ops.masking.detection import personal_value
from saju_ops.masking.forms import plain, text_forms
from saju_ops.masking.keys import person_keys
from saju_ops.masking.masker import MaskedColumn, MaskingRefused
from saju_ops.masking.people import People, by_chance
from saju_ops.masking.rules import RULES
from saju_ops.masking.windows import Windows
from saju_ops_tests.dumps.scene import Dumps
from saju_ops_tests.masking.test_masking import execute, masked, people

# The birth of the session sess-true-3, and the number of the job and its messages of that number.
BIRTH = datetime(1990, 5, 8, 9, 30, tzinfo=UTC)
IN_KOREA = BIRTH - timedelta(hours=9)
ID, SESSION, PHONE = "hong.gildong3", "sess-true-3", "010-9876-5403"

# Found in the row of any person.
CERTAIN = [
    "1990-05-08 09:30", "1990-05-08", "19900508", "1990. 5. 8.", "1990/5/8", "1990년 5월 8일", "1990년5월8일 9시30분",
    "90년 5월 8일", "1990_05_08", "１９９０－０５－０８", "1990\u200b-05-\u200b08", "8/5/1990", "05-08-1990", "May 8, 1990",
    "8 May 1990", "900508-1", "900508-1******", "199005080930", "19900508093000", "kim_19900508.jpg",
    "https://a.kr/x?b=19900508&c=1", '{"b": 19900508}', "1990%2D05%2D08", "1990&#45;05&#45;08", "1990\\u002d05\\u002d08",
    base64.b64encode(b"1990-05-08").decode(), b"1990-05-08".hex(), "0x" + b"19900508".hex(),
    str(int(BIRTH.timestamp())), str(int(IN_KOREA.timestamp()) * 1000),
    "010_9876_5403", "010 - 9876 - 5403", "+82 (0)10 9876 5403", "1098765403", "01098765403", "0109876-5403",
    "010.9876.5403", "010/9876/5403", "010a9876b5403", "tel:+821098765403", "0082-10-9876-5403", "0 1 0 9 8 7 6 5 4 0 3",
    "０１０－９８７６－５４０３", "공일공-구팔칠육-오사공삼", "10-9876-5403", "010%2D9876%2D5403",
    "x_hong.gildong3", "!hong.gildong3!", "hong.gildong3_x", "HONG.GILDONG3", "hong gildong 3", "hong_gildong_3",
    "hong\u200b.gildong3", "axhonggildong3bx", "/u/hong.gildong3/x", "hong%2Egildong3", "hong&#46;gildong3",
    base64.b64encode(ID.encode()).decode(), ID.encode().hex(), "visit-sess-true-3-9", "sess_true_3.png",
    unicodedata.normalize("NFD", "x_홍길동9_y"), "홍 길 동 9", "mail: minsu@xn--test.kr", "minsu+news@xn--test.kr",
    'image/png; name="홍길동 사진.jpg"', "image/png; name=kim_minsu_7.jpg",
]  # fmt: skip
# In a row of that person.
OWN = [
    "900508", "90.05.08", "90/5/8", "90-05-08", "1990년 5월생", "1990년 5월", "90년생", "1990년생", "5월 8일", "05/08", "0508",
    "오전 9시 30분", "09시30분", "9:30", "AM 9:30", "9시 반", "0930", "1990", "199005", "05081990", "9005080930",
    "x12319900508456", "9876-5403", "98765403",
]  # fmt: skip


@pytest.fixture(autouse=True)
def all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_dump, "NAMED", 500)


def sql(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def literal(url: str, text: str) -> str:
    return sql(text) if "mysql" in url or "mariadb" in url else "'" + text.replace("'", "''") + "'"


def more_people(url: str) -> None:
    """Those of `people`, one with a Korean id, one with a mail address, and files that are called by their owners."""
    people(url)
    execute(
        url, "INSERT INTO users (user_id) VALUES ('홍길동9'), ('minsu@xn--test.kr')",
        "INSERT INTO job_files (job_id, kind, s3_key) SELECT id, 'original', 'jobs/1/홍길동 사진.jpg' FROM jobs"
        " WHERE phone = '010-9876-5403'",
        "INSERT INTO job_files (job_id, kind, s3_key) SELECT id, 'original', 'jobs/1/kim_minsu_7.jpg' FROM jobs"
        " WHERE phone = '010-9876-5403'",
    )  # fmt: skip


def refused(url: str, folder: Path) -> str:
    with pytest.raises(MaskingRefused) as error:
        masked(url, folder)
    assert Dumps(url, folder).files() == []
    return str(error.value)


def named(message: str, table: str, count: int) -> set[int]:
    return {n for n in range(count) if re.search(rf"\b{table}\.c{n} holds ", message)}


def let_through(url: str, folder: Path, tables: dict[str, list[str]]) -> list[str]:
    """The values that stop no dump. What looks like somebody's stops it before it is known what is true: so twice."""
    found: dict[str, set[int]] = {table: set() for table in tables}
    for _ in range(2):
        message = refused(url, folder)
        for table, values in tables.items():
            assert not any(text in message for text in values if len(text) > 4)
            some = named(message, table, len(values))
            found[table] |= some
            if some:
                execute(url, f"UPDATE {table} SET {', '.join(f'c{n} = NULL' for n in some)}")
        if all(len(found[table]) == len(values) for table, values in tables.items()):
            break
    return [v for table, values in tables.items() for n, v in enumerate(values) if n not in found[table]]


def columns(url: str, table: str, values: list[str], where: str = "") -> None:
    """A column for each value, in one row."""
    for first in range(0, len(values), 20):
        some = range(first, min(first + 20, len(values)))
        for n in some:
            execute(url, f"ALTER TABLE {table} ADD COLUMN c{n} varchar(90)")
        execute(url, f"UPDATE {table} SET {', '.join(f'c{n} = {literal(url, values[n])}' for n in some)} {where}")


@pytest.mark.long
def test_what_is_certain_is_found_in_every_form_and_whoevers_row_it_is_in(database_url: str, tmp_path: Path) -> None:
    more_people(database_url)
    execute(database_url, "CREATE TABLE calls (n int)", "INSERT INTO calls VALUES (1)")
    columns(database_url, "calls", CERTAIN)
    assert let_through(database_url, tmp_path, {"calls": CERTAIN}) == []


@pytest.mark.long
def test_columns_that_a_rule_keeps_are_looked_through_too(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, "calls", {f"c{n}": "keep" for n in range(len(CERTAIN))})
    more_people(database_url)
    execute(database_url, "CREATE TABLE calls (n int)", "INSERT INTO calls VALUES (1)")
    columns(database_url, "calls", CERTAIN)
    assert named(refused(database_url, tmp_path), "calls", len(CERTAIN)) == set(range(len(CERTAIN)))
    monkeypatch.setitem(RULES, "calls", dict.fromkeys(RULES["calls"], "public"))
    assert masked(database_url, tmp_path).proven


@pytest.mark.long
def test_what_is_doubtful_is_found_in_a_row_of_that_person(database_url: str, tmp_path: Path) -> None:
    people(database_url)
    own = [t for t in OWN if "5403" not in t]
    columns(database_url, "user_sessions", own, f"WHERE session_id = '{SESSION}'")
    numbers = [t for t in OWN if "5403" in t]
    columns(database_url, "sms_logs", numbers, f"WHERE phone = '{PHONE}'")
    assert let_through(database_url, tmp_path, {"user_sessions": own, "sms_logs": numbers}) == []


EPOCH = int(BIRTH.timestamp())
# Types and values of a row of that person; and of any row.
OWN_TYPED = {
    "int": ["900508", "1990", "508", "930", "199005", "98765403"],
    "bigint": ["9005080930", "9005081234567"],
    "decimal(20,0)": ["900508"],
    "time": ["'09:30:00'"],
}
TYPED = {
    "int": ["19900508", str(EPOCH), str(int(IN_KOREA.timestamp()))],
    "bigint": ["199005080930", "19900508093000", str(EPOCH * 1_000), str(EPOCH * 1_000_000), "1098765403", "821098765403"],
    "decimal(20,0)": ["19900508", "1098765403"],
    "decimal(20,4)": ["19900508.0000"],
    "double precision": ["19900508", "1098765403"],
    "date": ["'1990-05-08'"],
    "timestamp": ["'1990-05-08 09:30:00'"],
}  # fmt: skip
SPECIAL = {
    "postgres": {
        "int[]": ["ARRAY[1, 19900508]"], "numrange": ["'[1,19900508]'"],
        "bit(40)": ["CAST(199005080930 AS bit(40))"],
    },
    "mysql": {"bit(40)": ["199005080930"], "year": ["1990"]},
    "mariadb": {"bit(40)": ["199005080930"], "uuid": ["'19900508-0000-4000-8000-000000000001'"], "year": ["1990"]},
    "sqlite": {"int": ["'born 19900508'"], "double": ["'1990-05-08'"]},
}  # fmt: skip
KEPT = {
    "postgres": {"jsonb": ["'{\"b\": {\"19900508\": 1}}'"], "bytea": ["'1990-05-08'"], "varchar(20)[]": ["ARRAY['a', '1990-05-08']"]},
    "mysql": {"json": ["'{\"b\": [19900508]}'"], "blob": ["'1990-05-08'"], "varbinary(40)": ["'x_hong.gildong3'"]},
    "mariadb": {"json": ["'{\"b\": [19900508]}'"], "blob": ["'1990-05-08'"]},
    "sqlite": {"json": ["'{\"b\": [19900508]}'"], "blob": ["x'313939302d30352d3038'"]},
}  # fmt: skip


def flat(types: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(kind, value) for kind, values in types.items() for value in values]


def typed(url: str, table: str, types: list[tuple[str, str]], where: str = "") -> None:
    for n, (kind, value) in enumerate(types):
        kind = kind if kind != "timestamp" or "postgres" in url else "datetime"
        execute(url, f"ALTER TABLE {table} ADD COLUMN c{n} {kind}", f"UPDATE {table} SET c{n} = {value} {where}")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb", "postgres", "sqlite"])
def test_numbers_times_and_types_of_an_engine_are_looked_through_too(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    people(url)
    execute(url, "CREATE TABLE calls (n int)", "INSERT INTO calls VALUES (1)")
    kept, certain, own = flat(KEPT[engine]), flat(TYPED) + flat(SPECIAL[engine]), flat(OWN_TYPED)
    monkeypatch.setitem(RULES, "calls", {f"c{n}": "keep" for n in range(len(kept))})
    certain = kept + [some for some in certain if some != ("year", "1990")]
    typed(url, "calls", certain)
    # The number of a telephone is in the jobs' rows.
    births = [(kind, value) for kind, value in own if "5403" not in value] + [
        some for some in flat(SPECIAL[engine]) if some == ("year", "1990")
    ]
    typed(url, "user_sessions", births, f"WHERE session_id = '{SESSION}'")
    phones = [some for some in own if "5403" in some[1]]
    typed(url, "jobs", phones, f"WHERE phone = '{PHONE}'")
    message = refused(url, tmp_path)
    for table, types in (("calls", certain), ("user_sessions", births), ("jobs", phones)):
        found = named(message, table, len(types))
        assert [some for n, some in enumerate(types) if n not in found] == [], message


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "statements", "where"),
    [
        ("mysql", ["CREATE TABLE t (n int COMMENT 'see 1990. 5. 8.')"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n int) COMMENT 'x_hong.gildong3'"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n varchar(30) DEFAULT '010_9876_5403')"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n int, CHECK (n <> 19900508))"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n int, b date AS (date '1990-05-08'))"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n enum('a', '홍 길 동 9'))"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n int) AUTO_INCREMENT = 1"], None),
        ("mysql", ["CREATE TABLE t (n int AUTO_INCREMENT PRIMARY KEY) AUTO_INCREMENT = 19900508"], "counter of TABLE `t`"),
        ("mysql", ["CREATE TABLE t_hong_gildong3 (n int)"], "TABLE (a name"),
        ("mysql", ["CREATE TABLE t (n int, KEY k_19900508 (n))"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n int) PARTITION BY RANGE (n) (PARTITION p19900508 VALUES LESS THAN (9))"], "TABLE `t`"),
        ("mysql", ["CREATE TABLE t (n int)", "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW"
                   " SET NEW.n = IF(NEW.n = 1098765403, 1, 2)"], "TRIGGER"),
        ("mysql", ["CREATE EVENT e ON SCHEDULE EVERY 1 DAY COMMENT 'sess_true_3!' DO SELECT 1"], "EVENT"),
        ("mariadb", ["CREATE VIEW v AS SELECT '1990/5/8' AS x"], "VIEW"),
        ("mariadb", ["CREATE SEQUENCE s START WITH 19900508"], "SEQUENCE"),
        ("mariadb", ["CREATE PROCEDURE p() SELECT '+82 (0)10 9876 5403'"], "PROCEDURE"),
        ("postgres", ["CREATE TABLE t (n int)", "COMMENT ON COLUMN t.n IS 'hong_gildong3!'"], "COLUMN"),
        ("postgres", ["CREATE SEQUENCE s", "SELECT setval('s', 1098765403)"], "counter of public.s"),
        ("postgres", ["CREATE TABLE t (n int CONSTRAINT k_1990_05_08 CHECK (n > 0))"], "TABLE public.t"),
        ("postgres", ["CREATE TYPE m AS ENUM ('a', '1990년 5월 8일')"], "TYPE"),
        ("postgres", ["CREATE TABLE t (n int)", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT 19900508 $$"],
         "FUNCTION"),
        ("sqlite", ["CREATE TABLE t (n int DEFAULT 1098765403)"], "TABLE t"),
        ("sqlite", ["CREATE TABLE t (hong_gildong3 int)"], "TABLE t"),
        ("sqlite", ["CREATE TABLE t (n int)", "CREATE INDEX i_sess_true_3 ON t (n)"], "INDEX (a name"),
        ("sqlite", ["CREATE TABLE t (n INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (19900508)",
                    "DELETE FROM t"], "counter of t"),
        ("sqlite", ["CREATE TABLE t (n int)", "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT '900508-1'; END"],
         "TRIGGER g"),
        ("sqlite", ["CREATE TABLE plain (n int DEFAULT 20300101, at text DEFAULT CURRENT_TIMESTAMP) -- 2026-11-28"], None),
    ],
)  # fmt: skip
def test_definitions_say_nothing_true_in_any_form(
    engine: str, statements: list[str], where: str | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    more_people(url)
    if where is None:
        execute(url, *[s.replace(", at text", ", at timestamp").replace(" AUTO_INCREMENT = 1", "") for s in statements])
        assert masked(url, tmp_path).proven
        return
    execute(url, *statements)
    message = refused(url, tmp_path)
    assert where in message
    assert "holds a true value" in message or "looks like" in message
    for true in ("19900508", "1098765403", "gildong", "sess_true", "길"):
        assert true not in message


def script(url: str, *statements: str) -> None:
    """On SQLite."""
    with closing(sqlite3.connect(str(parse_database_url(url).database))) as connection:
        connection.executescript(";".join(statements))


def filled(url: str, kind: str, value: str) -> None:
    """A column of the log, whose value is made of the row's number."""
    script(url, f"ALTER TABLE conversation_logs ADD COLUMN c {kind}", f"UPDATE conversation_logs SET c = {value}")


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        ("varchar(20)", "log_id || ' x'", "conversation_logs.c holds 12 different values in 12 rows"),
        ("char(36)", "printf('%08x-0000-4000-8000-000000000000', log_id)", "conversation_logs.c holds 12 different values"),
        ("date", "'1988-03-0' || (log_id % 9 + 1)", "conversation_logs.c holds times before 2010"),
        ("varchar(20)", "'grade ' || (log_id % 4)", None),
        ("varchar(20)", "CASE WHEN log_id = 3 THEN 'vip' END", None),
        ("int", "log_id * 7919", None),
        ("bigint", "1780000000000 + log_id", None),
        ("boolean", "log_id % 2", None),
        ("timestamp", "'2026-01-05 09:30:0' || (log_id % 9)", None),
        ("varchar(40)", "'1970-01-01 00:00:00'", None),
        ("date", "'1970-01-01'", None),
        ("date", "'0001-01-01'", None),
    ],
)  # fmt: skip
def test_what_no_rule_names_is_a_number_a_flag_a_time_of_the_service_or_one_of_few_values(
    kind: str, value: str, why: str | None, sqlite_url: str, tmp_path: Path
) -> None:
    people(sqlite_url)
    filled(sqlite_url, kind, value)
    if why is None:
        assert masked(sqlite_url, tmp_path).proven
    else:
        message = refused(sqlite_url, tmp_path)
        assert why in message
        assert "Give each column a rule" in message


@pytest.mark.long
def test_random_numbers_stop_nothing_and_one_of_that_persons_does(sqlite_url: str, tmp_path: Path) -> None:
    """12,000 messages and 2,000 births: thousands of the numbers are somebody's by chance."""
    people(sqlite_url)
    series = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {}) SELECT "
    thousands, all_messages = series.format(2_000), series.format(12_000)
    script(
        sqlite_url,
        f"INSERT INTO users (user_id) {thousands} 'user-number-' || n FROM s",
        f"INSERT INTO user_sessions (session_id, user_id, birth_datetime) {thousands} 'session-number-' || n,"
        " 'user-number-' || n, datetime('1950-01-01', (n * 7919 % 25000) || ' days', (n * 31 % 1440) || ' minutes')"
        " FROM s",
        f"INSERT INTO conversation_logs (session_id, role, content, message_order) {all_messages}"
        " 'session-number-' || (n % 2000 + 1), 'user', 'text', n FROM s",
    )
    random = Random(13)
    path = str(parse_database_url(sqlite_url).database)
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("drawn", 1, lambda size: random.randrange(10**size))
        for size in (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16):
            connection.execute(f"ALTER TABLE conversation_logs ADD COLUMN n{size} bigint")
            connection.execute(f"UPDATE conversation_logs SET n{size} = drawn({size})")
        connection.commit()
    assert masked(sqlite_url, tmp_path / "1").proven
    script(sqlite_url, "UPDATE conversation_logs SET n7 = NULL", "UPDATE conversation_logs SET n7 = 900508 WHERE"
           f" session_id = '{SESSION}'")  # fmt: skip
    assert "conversation_logs.n7 holds 1" in refused(sqlite_url, tmp_path / "2")


@pytest.mark.long
def test_the_demo_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from saju_ops.demo import service

    monkeypatch.setattr(service, "_write_collections", lambda path, seed, report: path.mkdir())
    for seed in (1, 2):
        made = service.make_service(
            tmp_path / str(seed), now=datetime(2026, 11, 28, tzinfo=UTC), rows=10_000, seed=seed
        )
        assert masked(made.database_url, tmp_path / f"dump{seed}").proven


def test_a_row_belongs_to_a_person_by_the_keys_of_users_sessions_and_jobs() -> None:
    columns = [
        MaskedColumn("users", "user_id", "varchar(9)", "identifier"), MaskedColumn("users", "plan_id", "int", None),
        MaskedColumn("plans", "id", "int", None), MaskedColumn("jobs", "id", "char(36)", "identifier"),
        MaskedColumn("notes", "job_id", "char(36)", None), MaskedColumn("notes", "id", "int", None),
        MaskedColumn("calls", "USER_ID", "varchar(9)", None), MaskedColumn("births", "id", "int", None),
        MaskedColumn("births", "at", "datetime", "birth"),
    ]  # fmt: skip
    keys = person_keys(columns, [("users", "plan_id", "plans", "id")])
    assert set(keys) == {
        ("users", "user_id"), ("calls", "USER_ID"), ("jobs", "id"), ("notes", "job_id"), ("births", "id")
    }  # fmt: skip
    assert keys["users", "user_id"] == keys["calls", "USER_ID"]
    assert keys["jobs", "id"] == keys["notes", "job_id"]


def test_what_is_alike_as_often_as_chance_has_it_is_no_sign() -> None:
    assert by_chance(0, 1, 1e-9)
    assert not by_chance(1, 1, 1 / 25_000)
    assert not by_chance(12, 12, 1 / 30)
    assert by_chance(1, 10_000, 1 / 25_000)
    assert by_chance(420, 12_000, 1 / 30)
    assert not by_chance(600, 12_000, 1 / 30)
    assert by_chance(5, 5, 1.0)


@pytest.mark.parametrize("room", [300, 1 << 16])
def test_a_name_is_found_inside_of_a_text_of_any_length(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.masking.windows.ROOM", room)
    windows = Windows()
    windows.add(["sesstrue3", "honggildong3", "가나다라마바사아자차"])
    filler = "x" * 1_000
    texts = ["", "sesstrue3", f"{filler}honggildong3{filler}", "sesstrue4", f"{filler}가나다라마바사아자차"]
    assert sorted(windows.likely(texts)) == [
        (1, 0, "sesstrue3"), (2, 1_000, "honggildong3"), (4, 1_000, "가나다라마바사아자차")
    ]  # fmt: skip


def test_many_people_take_no_more_memory_and_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.masking.hash_set.GATHERED", 10_000)
    ids, births, codes = (MaskedColumn("s", n, k, m) for n, k, m in (
        ("session_id", "varchar(40)", "identifier"), ("birth", "datetime", "birth"), ("code", "int", None),
    ))  # fmt: skip
    people = People([[ids, births, codes]], [])
    first = datetime(1960, 1, 1)  # noqa: DTZ001
    for start in range(0, 20_000, 1_000):
        days = [first + timedelta(days=n % 15_000, minutes=n) for n in range(start, start + 1_000)]
        some = [f"session-{n}" for n in range(start, start + 1_000)]
        people.add([ids, births], [some, days], [[f"m{n}" for n in some], days])
    others = [[f"msession-{n}" for n in range(1, 1_001)], [first] * 1_000, [600_101 + n % 28 for n in range(1_000)]]
    people.look([ids, births, codes], others)
    # Each of those numbers is somebody's birthday, and one in 28 is that of the row's own person.
    assert people.found("s")["code"] > 20
    people.close()


def test_a_text_says_the_same_in_every_spelling() -> None:
    assert plain("Ｈｏｎｇ\u200b.\u1112\u1169\u11bc") == "hong.홍"
    assert {f.kind for f in text_forms("서울시 12345호")} == set()
    assert personal_value("+82 (0)10 9876 5403") == "a phone number"
    assert personal_value(quote("010-9876-5403")) == "a phone number"
    assert personal_value(json.dumps("홍 010－9876－5403")) == "a phone number"
    assert personal_value("생산 1990년 생산") is None
    assert personal_value("90년생") == "a birth date in words"
