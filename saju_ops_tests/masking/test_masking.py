"""A masked dump joins as the true one does, and nothing true is in it."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from saju_ops.database.connect import parse_database_url
from saju_ops.errors import OperatorError
from saju_ops.masking.detection import Originals, personal_value, suspicious_columns
from saju_ops.masking.dump import take_masked_dump
from saju_ops.masking.masker import MaskedColumn, Masker, MaskingRefused
from saju_ops.masking.rules import RULES
from saju_ops.schema.tables import chatbot, paid_reports, speech_analysis
from saju_ops.storage.open import open_storage
from saju_ops_tests.dumps.scene import AT_THREE, Dumps, options, oracle, oracle_clients, scratch_databases

__all__ = ["oracle"]
PEOPLE = 12
TABLES = {**chatbot.tables, **paid_reports.tables, **speech_analysis.tables}
# Values of the true rows that must not be in the dump, in any encoding of it.
TRUE = [
    "홍길동", "010-1234", "010-9876", "1990-05-05 09:30", "1990-05-05T09:30", "sess-true", "hong.gildong", "ORDER-2026",
    "kakaopay", "E1234567", "김상담", "부산", "gAAAAAtrue", "길동이", "경오", "신사", "편재강함", "역마살있음",
    "욕설단어", "35.1796",
]  # fmt: skip


def job(i: int) -> str:
    return f"00000000-0000-4000-8000-0000000000{i:02d}"


def people(url: str) -> None:
    """The service's own tables, with twelve people of whom two share a birth date."""
    parsed = parse_database_url(url)
    if parsed.get_backend_name() == "sqlite":
        Path(str(parsed.database)).touch()
    engine = sa.create_engine(parsed)
    for metadata in (chatbot, paid_reports, speech_analysis):
        metadata.create_all(engine)
    every = range(PEOPLE)
    birth = [datetime(1990, 5, 5 + min(i, 10), 9, 30) for i in every]  # noqa: DTZ001
    rows: dict[str, list[dict[str, Any]]] = {
        "users": [
            {"user_id": f"hong.gildong{i}", "preferences": {"tz": "Asia/Seoul", "nick": f"길동이{i}"}} for i in every
        ],
        "user_sessions": [
            {
                "session_id": f"sess-true-{i}", "user_id": f"hong.gildong{i}", "birth_datetime": birth[i],
                "birth_datetime_encrypted": f"gAAAAAtrue{i}",
                "birth_location": {"city": "부산광역시", "lat": 35.1796, "lng": 129.0756},
            }
            for i in every
        ],
        "saju_calculations": [
            {
                "session_id": f"sess-true-{i}", "birth_datetime": birth[i], "year_ganji": "경오", "month_ganji": "신사",
                "day_ganji": "갑자", "time_ganji": "기사", "lunar_year": 1990, "lunar_month": 4, "lunar_day": 11,
                "season": "여름", "jieqi": "입하",
            }
            for i in every
        ],
        "saju_analyses": [
            {
                "calculation_id": i + 1, "day_gan": "갑", "day_zhi": "자", "shipsung_data": {"a": "편재강함"},
                "sinsal_list": ["역마살있음"], "yongshin": "화", "ohang_dominant": "목",
            }
            for i in every
        ],
        "conversation_logs": [
            {
                "session_id": f"sess-true-{i}", "message_order": i, "role": "user", "model_name": "gpt-4o-mini",
                "content": f"저는 홍길동, 010-1234-56{i:02d} 🔮", "tool_call_id": f"call_{i:012d}",
                "tool_calls": [{"name": "saju", "arguments": {"birth": "1990-05-05T09:30"}}],
            }
            for i in every
        ],
        "jobs": [{"id": job(i), "phone": f"010-9876-54{i:02d}", "product": "saju"} for i in every],
        "payments": [
            {"job_id": job(i), "order_id": f"ORDER-2026-{i}", "amount": 9900, "method": "kakaopay", "status": "paid"}
            for i in every
        ],
        "sms_logs": [
            {"job_id": job(i), "phone": f"010-9876-54{i:02d}", "message": f"홍길동님 {i}", "status": "sent"}
            for i in every
        ],
        "analysis_jobs": [{"job_id": "j1", "emp_id": "E1234567", "folder_path": "/data/김상담"}],
        "analysis_results": [
            {
                "job_id": "j1", "file_id": "김상담_1.wav", "stt_text": "홍길동 고객님",
                "improper_detection_results": {"w": "욕설단어"},
            }
        ],
    }  # fmt: skip
    with engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(TABLES[table].insert(), values)
    engine.dispose()


def masked(url: str, folder: Path, **more: Any) -> Any:
    dumps = Dumps(url, folder)
    return take_masked_dump(dumps.url, dumps.storage, options(), now=lambda: AT_THREE, **more)


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(parse_database_url(url))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(statement)]
    engine.dispose()
    return found


def restored(url: str, folder: Path, target: str) -> str:
    Dumps(url, folder).restore(target, masked=True)
    return target


@pytest.fixture
def target(database_url: str, tmp_path: Path) -> Any:
    parsed = sa.make_url(database_url)
    if parsed.get_backend_name() == "sqlite":
        yield f"sqlite:///{tmp_path / 'developers.db'}"
        return
    name = f"{parsed.database}_developers"
    yield parsed.set(database=name).render_as_string(hide_password=False)
    admin = sa.create_engine(parsed, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
    admin.dispose()


@pytest.mark.long
def test_nothing_true_is_in_it_and_everything_joins(
    database_url: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "mysql" in database_url:
        monkeypatch.setenv("PATH", oracle_clients(tmp_path / "oracle", only=False))
    people(database_url)
    result = masked(database_url, tmp_path)
    assert result.proven, result.message
    assert result.manifest.kind == "masked_database_dump"
    assert result.manifest.file.startswith("masked_database/")
    text = gzip.decompress((tmp_path / "backups" / result.manifest.file).read_bytes())
    escaped = [t.encode("unicode_escape") for t in TRUE]
    assert [t for t, e in zip(TRUE, escaped, strict=True) if t.encode() in text or e in text] == []
    restored(database_url, tmp_path, target)
    joined = (
        "SELECT s.birth_datetime, c.birth_datetime, u.user_id FROM users u"
        " JOIN user_sessions s ON s.user_id = u.user_id JOIN saju_calculations c ON c.session_id = s.session_id"
        " JOIN saju_analyses a"
        " ON a.calculation_id = c.calculation_id JOIN conversation_logs l ON l.session_id = s.session_id"
    )
    rows = query(target, joined)
    assert len(rows) == PEOPLE
    assert all(one == two for one, two, _ in rows)
    # Two people of one birth date have one false birth date; the others each their own.
    assert len({one for one, _, _ in rows}) == PEOPLE - 1
    phones = query(target, "SELECT j.phone, s.phone FROM jobs j JOIN sms_logs s ON s.job_id = j.id")
    assert len(phones) == PEOPLE
    assert all(one == two and one.startswith("000-") for one, two in phones)
    (amounts,) = set(query(target, "SELECT amount FROM payments"))
    assert amounts != (9900,)
    assert query(target, "SELECT count(*) FROM conversation_logs WHERE role <> 'user'") == [(0,)]


def test_the_next_dump_has_other_birth_dates(sqlite_url: str, tmp_path: Path) -> None:
    people(sqlite_url)
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        masked(sqlite_url, folder)
        target = restored(sqlite_url, folder, f"sqlite:///{folder / 'x.db'}")
        found.append({row[0] for row in query(target, "SELECT birth_datetime FROM user_sessions")})
    assert not found[0] & found[1]


def test_the_key_is_stored_nowhere(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people(sqlite_url)
    key = b"k" * 16 + b"e" * 16
    monkeypatch.setattr("saju_ops.masking.masker.secrets.token_bytes", lambda size: key)
    result = masked(sqlite_url, tmp_path)
    manifest = result.manifest.to_json()
    assert key not in manifest
    assert key.hex().encode() not in manifest
    assert key not in gzip.decompress((tmp_path / "backups" / result.manifest.file).read_bytes())


@pytest.mark.parametrize(
    ("ddl", "insert", "why"),
    [
        ("real_name varchar(20)", "'x'", "real_name is called like something personal"),
        ("mobile varchar(20)", "'x'", "mobile is called like something personal"),
        ("extra text", "'x'", "extra may hold any text"),
        ("code varchar(40)", "'call 010-2222-3333'", "code holds what looks like a phone number (1 time)"),
        ("code varchar(40)", "'a@example.com'", "code holds what looks like an e-mail address"),
        ("code varchar(40)", "'900505-1234567'", "code holds what looks like a resident registration number"),
    ],
)
def test_a_column_that_no_rule_names_and_that_looks_personal_stops_it(
    ddl: str, insert: str, why: str, sqlite_url: str, tmp_path: Path
) -> None:
    url = sqlite_url
    Path(str(parse_database_url(url).database)).touch()
    with sa.create_engine(parse_database_url(url), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLE partners (id int, {ddl})")
        connection.exec_driver_sql(f"INSERT INTO partners VALUES (1, {insert})")
    with pytest.raises(MaskingRefused) as refused:
        masked(url, tmp_path)
    assert f"partners.{why}" in str(refused.value)
    assert "masking/rules.py" in str(refused.value)
    assert insert.strip("'") not in str(refused.value).replace("extra", "").replace("example", "") or insert == "'x'"
    assert Dumps(url, tmp_path).files() == []


@pytest.mark.parametrize("engine", ["mariadb", "postgres"])
def test_on_a_server_too_and_its_scratch_database_is_dropped(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE partners (id int, code varchar(40))")
        connection.exec_driver_sql("INSERT INTO partners VALUES (1, 'call 010-2222-3333'), (2, '+82-10-2222-3333')")
    with pytest.raises(MaskingRefused, match=r"code holds what looks like a phone number \(2 times\)"):
        masked(url, tmp_path)
    assert Dumps(url, tmp_path).files() == []
    assert scratch_databases(request.getfixturevalue(f"{engine}_server")) == []


def test_a_true_value_in_another_column_is_found(sqlite_url: str, tmp_path: Path) -> None:
    """A session's name, copied by somebody into a column that no rule masks."""
    people(sqlite_url)
    with sa.create_engine(sqlite_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("UPDATE jobs SET product = 'sess-true-3'")
    with pytest.raises(MaskingRefused, match=r"jobs\.product holds 12 true values"):
        masked(sqlite_url, tmp_path)
    assert Dumps(sqlite_url, tmp_path).files() == []


def execute(url: str, *statements: str) -> None:
    with sa.create_engine(parse_database_url(url), isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (("CREATE TABLE calls (path varchar(99))", "INSERT INTO calls VALUES ('/api/sessions/sess-true-3/log')"),
         "calls.path holds 1 true value"),
        (("CREATE TABLE calls (asked varchar(99))", """INSERT INTO calls VALUES ('{"sid": "sess-true-3"}')"""),
         "calls.asked holds 1 true value"),
        (("CREATE TABLE calls (code varchar(99))", "INSERT INTO calls VALUES ('SESS-TRUE-3')"),
         "calls.code holds 1 true value"),
        (("CREATE TABLE calls (at DATETIME)", "INSERT INTO calls SELECT birth_datetime FROM user_sessions"),
         "calls.at holds 12 true values"),
        (("CREATE VIEW one AS SELECT 'hong.gildong3' AS who",), "the definition of VIEW one holds a true value"),
        (("CREATE TABLE calls (code varchar(20) DEFAULT '010-2222-3333')",),
         "the definition of TABLE calls holds what looks like a phone number"),
    ],
)  # fmt: skip
def test_somebody_named_inside_a_value_or_a_definition_is_found(
    statements: tuple[str, ...], why: str, sqlite_url: str, tmp_path: Path
) -> None:
    people(sqlite_url)
    execute(sqlite_url, *statements)
    with pytest.raises(MaskingRefused) as refused:
        masked(sqlite_url, tmp_path)
    assert why in str(refused.value)
    assert "gildong" not in str(refused.value)
    assert Dumps(sqlite_url, tmp_path).files() == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "statements", "why"),
    [
        ("mysql", ("CREATE TABLE calls (id int) COMMENT 'ask 010-2222-3333'",), "TABLE `calls` holds what looks like"),
        ("mysql", ("CREATE FUNCTION who() RETURNS varchar(20) DETERMINISTIC RETURN 'hong.gildong3'",),
         "FUNCTION `who` holds a true value"),
        ("postgres", ("CREATE TYPE who AS ENUM ('hong.gildong3', 'b')",), "TYPE public.who holds a true value"),
    ],
)  # fmt: skip
def test_on_a_server_definitions_are_looked_through_too(
    engine: str, statements: tuple[str, ...], why: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    people(url)
    execute(url, *statements)
    with pytest.raises(MaskingRefused, match=re.escape(f"the definition of {why}")):
        masked(url, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_broken_view_is_left_out_with_its_definition(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    people(url)
    execute(
        url, "CREATE TABLE gone (id int)", "CREATE VIEW lost AS SELECT id, 'hong.gildong3' AS who FROM gone",
        "DROP TABLE gone",
    )  # fmt: skip
    result = masked(url, tmp_path)
    assert result.proven
    assert "broken views are left out: lost" in result.manifest.extra["masking"]["notes"]
    assert b"hong.gildong3" not in Dumps(url, tmp_path).content(result)


@pytest.mark.parametrize("engine", ["postgres", "sqlite"])
def test_a_constraint_that_takes_no_false_value_is_a_sentence_without_the_row(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{engine}_url")
    people(url)
    if engine == "postgres":
        execute(url, "ALTER TABLE payments ADD CHECK (method IN ('card', 'kakaopay'))")
    else:
        ((ddl,),) = query(url, "SELECT sql FROM sqlite_schema WHERE name = 'payments'")
        execute(url, "PRAGMA foreign_keys = OFF", "DROP TABLE payments",
                f"{ddl.rstrip().removesuffix(')')}, CHECK (method IN ('card', 'kakaopay')))",
                "INSERT INTO payments (job_id, order_id, amount, method, status)"
                f" VALUES ('{job(1)}', 'ORDER-2026-1', 9900, 'kakaopay', 'paid')")  # fmt: skip
    with pytest.raises(OperatorError, match=r"The masked copy of (public\.)?payments ended with") as failed:
        masked(url, tmp_path)
    assert "give its column another rule" in str(failed.value)
    assert "Failing row" not in str(failed.value)
    assert Dumps(url, tmp_path).files() == []


def test_what_is_alike_by_chance_stops_nothing(postgres_url: str, tmp_path: Path) -> None:
    """An employee's number and a row's, a child born in the second of a message, and a status that somebody wrote."""
    people(postgres_url)
    execute(
        postgres_url,
        "UPDATE analysis_jobs SET emp_id = '10023', status = 'completed'",
        "CREATE TABLE visits (id bigint, n int)", "INSERT INTO visits VALUES (10023, 5)",
        "UPDATE user_sessions SET birth_datetime = '2026-01-05 09:30:00' WHERE session_id = 'sess-true-3'",
        "UPDATE conversation_logs SET created_at = '2026-01-05 09:30:00' WHERE session_id = 'sess-true-1'",
        "UPDATE conversation_logs SET content = 'completed' WHERE session_id = 'sess-true-1'",
    )  # fmt: skip
    assert masked(postgres_url, tmp_path).proven


@pytest.mark.long
def test_identifiers_that_are_numbers_join_and_stay_unique(
    database_url: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, "staff", {"emp_no": "identifier"})
    execute(
        database_url, "CREATE TABLE staff (emp_no int NOT NULL PRIMARY KEY)",
        "CREATE TABLE shifts (id int, who int, FOREIGN KEY (who) REFERENCES staff (emp_no))",
        f"INSERT INTO staff VALUES {', '.join(f'({n})' for n in range(300))}",
        "INSERT INTO shifts SELECT emp_no, emp_no FROM staff", "INSERT INTO shifts VALUES (300, NULL)",
    )  # fmt: skip
    masked(database_url, tmp_path)
    restored(database_url, tmp_path, target)
    (counts,) = query(
        target, "SELECT COUNT(*), COUNT(DISTINCT who), MIN(emp_no) FROM shifts s JOIN staff e ON e.emp_no = s.who"
    )
    assert counts[:2] == (300, 300)
    assert counts[2] >= 2**30


def test_a_reference_without_a_column_and_in_another_case_is_followed(sqlite_url: str, tmp_path: Path) -> None:
    people(sqlite_url)
    execute(
        sqlite_url, "CREATE TABLE visits (id int, who varchar(255) REFERENCES USERS)",
        "CREATE TABLE views (id int, who varchar(255) REFERENCES Users (USER_ID))",
        "INSERT INTO visits VALUES (1, 'hong.gildong3')", "INSERT INTO views VALUES (1, 'hong.gildong3')",
    )  # fmt: skip
    masked(sqlite_url, tmp_path)
    target = restored(sqlite_url, tmp_path, f"sqlite:///{tmp_path / 'developers.db'}")
    joined = "SELECT COUNT(*) FROM users u JOIN visits v ON v.who = u.user_id JOIN views w ON w.who = u.user_id"
    assert query(target, joined) == [(1,)]


@pytest.mark.long
def test_where_the_database_takes_no_notice_of_case_what_joined_still_joins(
    mysql_url: str, mysql_server: Any, tmp_path: Path
) -> None:
    people(mysql_url)
    execute(mysql_url, "UPDATE conversation_logs SET session_id = 'SESS-True-3' WHERE session_id = 'sess-true-3'")
    masked(mysql_url, tmp_path)
    with mysql_server.database() as target:
        restored(mysql_url, tmp_path, target)
        joined = "SELECT COUNT(*) FROM conversation_logs l JOIN user_sessions s ON s.session_id = l.session_id"
        assert query(target, joined) == [(PEOPLE,)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("mask", "limit", "values"),
    [
        ("phone", None, [f"010-{n // 10_000:04d}-{n % 10_000:04d}" for n in range(0, 40_000_000, 1_000)]),
        ("phone", 9, [f"{n:09d}" for n in range(20_000)]),
        ("identifier", 8, [f"u{n}" for n in range(20_000)]),
    ],
)
def test_what_was_unique_stays_unique(mask: Any, limit: int | None, values: list[str]) -> None:
    masker = Masker()
    false = [masker.mask(mask, v, limit, "t.c") for v in values]
    assert len(set(false)) == len(values)
    assert not set(false) & set(values) - {f"{n:09d}" for n in range(20_000)}
    assert {len(v) for v in false} == {limit or len(values[0])}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("phoneNumber", "varchar(20)"), ("customerName", "varchar(20)"), ("emailAddress", "varchar(20)"),
        ("homeAddress", "varchar(20)"), ("addr1", "varchar(20)"), ("tel2", "char(9)"), ("hp", "varchar(20)"),
        ("contact_no", "varchar(20)"), ("userId", "int"), ("고객명", "varchar(20)"), ("핸드폰", "varchar(20)"),
        ("extra", "varchar(2000)"), ("extra", "character varying"), ("extra", "character varying(20)[]"),
        ("extra", "nvarchar(300)"), ("extra", "jsonb"),
    ],
)  # fmt: skip
def test_a_column_may_be_personal_by_its_name_or_type(name: str, kind: str) -> None:
    assert suspicious_columns([MaskedColumn("t", name, kind, None)])
    assert not suspicious_columns([MaskedColumn("t", name, kind, "keep")])


@pytest.mark.parametrize("kind", ["varchar(255)", "char(2)", "character varying(20)", "int", "timestamp", "VARCHAR(9)"])
def test_a_column_of_codes_is_harmless(kind: str) -> None:
    assert suspicious_columns([MaskedColumn("t", "status", kind, None)]) == []


@pytest.mark.parametrize("text", ["０１０－１２３４－５６７８", "T. 02-123-4567", "(031) 1234-5678", "070-1234-5678"])
def test_telephone_numbers_are_known_in_every_spelling(text: str) -> None:
    assert personal_value(text)


@pytest.mark.long
def test_a_column_that_refers_to_a_masked_one_is_masked_alike(
    postgres_url: str, postgres_server: Any, tmp_path: Path
) -> None:
    people(postgres_url)
    with sa.create_engine(parse_database_url(postgres_url), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE visits (id int, who varchar(255) REFERENCES users (user_id))")
        connection.exec_driver_sql("INSERT INTO visits VALUES (1, 'hong.gildong3')")
    result = masked(postgres_url, tmp_path)
    with postgres_server.database() as target:
        restored(postgres_url, tmp_path, target)
        assert query(target, "SELECT count(*) FROM visits v JOIN users u ON u.user_id = v.who") == [(1,)]
    assert result.proven
    assert scratch_databases(postgres_server) == []


def test_another_name_of_the_log_table_has_the_same_rules(sqlite_url: str, tmp_path: Path) -> None:
    people(sqlite_url)
    with sa.create_engine(sqlite_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ALTER TABLE conversation_logs RENAME TO talks")
    with pytest.raises(MaskingRefused, match=r"talks\.content"):
        masked(sqlite_url, tmp_path)
    assert masked(sqlite_url, tmp_path, log_table="talks").proven


def test_every_column_of_the_services_tables_is_named_or_harmless() -> None:
    for table in TABLES.values():
        columns = [
            MaskedColumn(table.name, c.name, "x", RULES.get(table.name, {}).get(c.name))
            for c in table.columns  # type: ignore[arg-type]
        ]
        assert suspicious_columns(columns) == []
    known = {(t, c.name) for t, table in TABLES.items() for c in table.columns}
    assert {(t, c) for t, rules in RULES.items() for c in rules} <= known


@pytest.mark.parametrize(
    ("mask", "value"),
    [
        ("birth", datetime(1990, 5, 5, 9, 30)), ("birth", date(1990, 5, 5)), ("birth", "1990-05-05"),  # noqa: DTZ001
        ("birth", "1990-05-05T09:30:00+09:00"), ("identifier", "hong"), ("identifier", 7), ("text", "글"),
        ("identifier", "123e4567-e89b-12d3-a456-426614174000"), ("json", '{"a": ["가", 1, 1.5, true, null]}'),
        ("json", "not json"), ("phone", "+82 10-1234-5678"), ("number", 9900), ("number", Decimal("9900.50")),
        ("number", "9900"), ("number", 0.5), ("hash", "ab" * 32), ("text", "긴 글" * 100), ("identifier", b"\xff\x00"),
    ],
)  # fmt: skip
def test_a_mask_keeps_the_form_and_not_the_value(mask: Any, value: Any) -> None:
    masker = Masker()
    false = masker.mask(mask, value, 40 if isinstance(value, str) else None, "t.c")
    assert false != value
    assert type(false) is type(value)
    assert masker.mask(mask, value, 40 if isinstance(value, str) else None, "t.c") == false
    assert Masker().mask(mask, value, None, "t.c") != false
    assert masker.mask(mask, None, None, "t.c") is None


def test_what_is_nobodys_is_no_personal_value() -> None:
    dates = ("2026-10-01 03:00:00", "20261001-0300-1234", "01-2026-1001")
    for text in (*dates, "gpt-4o-mini", "GET /api/v1", "12345678", "0.25", "서울", "pending"):
        assert personal_value(text) is None, text


def test_originals_are_found_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.masking.hash_set.GATHERED", 10_000)
    originals, column = Originals(), MaskedColumn("t", "c", "varchar(20)", "identifier")
    for start in range(0, 120_000, 5_000):
        originals.add(column, [f"value-{i}" for i in range(start, start + 5_000)])
    assert originals.hits(MaskedColumn("u", "d", "varchar(20)", None), ["value-7", "value-119999", "value-x"]) == 2


def test_somebody_is_named_in_as_many_texts_as_they_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.masking.detection.WORDS", 3)
    originals = Originals()
    originals.add(MaskedColumn("t", "c", "varchar(40)", "identifier"), ["sess-true-1", "sess-true-2"])
    texts = ["/s/sess-true-1", "nobody-12345678 here", "sess-true-1 sess-true-2 sess-true-1", "", "/s/sess-true-3"]
    assert [originals.named_in(t) for t in texts] == [True, False, True, False, False]
    # One that is a whole value is no name inside another.
    assert not originals.named_in("sess-true-1")
    another = MaskedColumn("u", "d", "varchar(99)", None)
    assert originals.hits(another, [*texts, None, "sess-true-1"]) == 3
    # Each as often as it occurs.
    assert originals.hits(another, [*texts, *texts, *["sess-true-2"] * 3, "/s/nobody"]) == 2 * 2 + 3
    assert originals.hits(MaskedColumn("t", "c", "varchar(40)", "identifier"), ["sess-true-1"] * 2) == 2 * 2
    documents = ['{"a": ["sess-true-1", "b"], "sess-true-2": 1}', '["sess-true-1"]', "sess-true-1"]
    assert originals.hits(MaskedColumn("u", "d", "json", "keep"), documents) == 0
    assert originals.hits(MaskedColumn("u", "d", "json", "json"), [*documents, documents[1]]) == 5


@pytest.mark.parametrize("gathered", [100, 1 << 18])
def test_a_false_number_or_birth_is_never_a_true_one(gathered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.masking.hash_set.GATHERED", gathered)
    masker = Masker()
    masker.avoid("number", "t.even", range(0, 1000, 2))
    false = {masker.mask("number", n, None, "t.even") for n in range(400)}
    assert len(false) > 200
    assert all(n % 2 for n in false)
    days = [date(1901, 1, 1) + timedelta(days=n) for n in range(9 * 365)]
    masker.avoid("birth", "t.birth", (d for d in days if d.month != 7))
    assert {masker.mask("birth", date(1990, 1, 1 + n), None, "t.birth").month for n in range(30)} == {7}
    masker.close()


def test_a_category_has_a_bounded_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saju_ops.masking.masker.MOST_CODES", 5)
    masker = Masker()
    masker.avoid("category", "t.five", ["a", "b", None, "c", "d", "e"])
    with pytest.raises(MaskingRefused, match=r"t\.six has too many values to be a category\..* No masked dump was"):
        masker.avoid("category", "t.six", iter("abcdef"))


PEAK = """
import sys
from pathlib import Path
from saju_ops_tests.masking.test_masking import masked
assert masked(sys.argv[1], Path(sys.argv[2])).proven
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.long
@pytest.mark.parametrize("engine", ["mariadb", "postgres", "sqlite"])
def test_long_texts_are_masked_a_few_at_a_time(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """128 of 1 MB: a batch by their number alone."""
    url = request.getfixturevalue(f"{engine}_url")
    people(url)
    row = {"session_id": "sess-true-1", "message_order": 99, "role": "user", "content": "가나 " * 150_000}
    names = "session_id, role, content, message_order"
    made = sa.create_engine(parse_database_url(url))
    with made.begin() as connection:
        if engine == "mariadb":
            connection.exec_driver_sql("ALTER TABLE conversation_logs MODIFY content LONGTEXT NOT NULL")
        connection.execute(TABLES["conversation_logs"].insert(), row)
        for twice in range(7):
            connection.exec_driver_sql(
                f"INSERT INTO conversation_logs ({names}) SELECT {names} + {1 << twice} FROM conversation_logs"
                " WHERE message_order >= 99"
            )
    made.dispose()
    command = [sys.executable, "-c", PEAK, url, str(tmp_path)]
    peak = int(subprocess.check_output(command, cwd=Path(__file__).parents[2])) >> 10
    assert peak < 130


def test_storage_holds_no_masked_dump_under_the_true_ones_name(sqlite_url: str, tmp_path: Path) -> None:
    people(sqlite_url)
    masked(sqlite_url, tmp_path)
    assert list(open_storage(str(tmp_path / "backups")).names("database/")) == []
