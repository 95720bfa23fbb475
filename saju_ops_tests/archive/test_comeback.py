"""The purge may delete only what a restore would accept: values that their text doesn't say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saju_ops.archive.day import archive_day
from saju_ops.errors import ProofFailed, Refused
from saju_ops.rows import comeback
from saju_ops.rows.days import parse_day
from saju_ops.rows.engines.mysql import json_types as mysql_json
from saju_ops.rows.engines.sqlite import store as sqlite
from saju_ops.rows.table import Column
from saju_ops.upkeep.drills import archive_drill
from saju_ops_tests.archive.scene import DAY, NEXT_DAY, NOW, SEOUL, Scene

THIRD_DAY = parse_day("2026-10-03", SEOUL)
JSON_TABLE = (
    "CREATE TABLE {name} (log_id bigint PRIMARY KEY, tool_calls json, bits bit(3), bytes blob,"
    " created_at timestamp(6) NOT NULL, KEY (created_at))"
)
# What JSON text has no form for, at the top, in an object, in an array and deep inside.
HIDDEN = {
    "a decimal": """JSON_SET('{"a": 1}', '$.cost', 0.10)""",
    "a decimal that a double equals": """JSON_SET('{"a": "b"}', '$.cost', 0.5)""",
    "a whole decimal": "JSON_OBJECT('n', CAST(5 AS DECIMAL(10)))",
    "a decimal beyond a double": "JSON_ARRAY(JSON_ARRAY(JSON_OBJECT('n', 1.123456789012345678901234567890)))",
    "a decimal at the top": "CAST(-1.50 AS JSON)",
    "a date and time": "JSON_OBJECT('at', CAST('2026-10-01 05:00:00' AS DATETIME))",
    "a date and time that no calendar has": "JSON_OBJECT('at', CAST('2026-02-31 05:00:00.000001' AS DATETIME(6)))",
    "a time stamp": "JSON_OBJECT('at', created_at, 'n', 1)",
    "a date": "JSON_ARRAY(1, JSON_OBJECT('at', CAST('2026-10-01' AS DATE)))",
    "a negative time": "JSON_OBJECT('at', CAST('-05:00:00.5' AS TIME(6)))",
    "a time at the top": "CAST(CAST('2026-10-01 05:00:00' AS DATETIME) AS JSON)",
    "a binary string": "JSON_OBJECT('at', CAST('x' AS BINARY), 'none', CAST('' AS BINARY))",
    "names with signs": """JSON_SET('{"a.b": {"c\\\\"d": [1, {"한글 [0]": []}, [2, "x"]]}, "": 3, "$": 4}',"""
    """ '$."a.b"."c\\\\"d"[1]."한글 [0]"[0]', 1.0, '$.""', 2.50, '$."a.b"."c\\\\"d"[2][0]', 7.0, '$."$"', CURDATE())""",
    "many": "JSON_ARRAY(1.5, 1.5e0, JSON_OBJECT('a', 0.1, 'b', JSON_ARRAY(2.5, NULL, 2.5e0, CURTIME(6))), 3.5, NOW())",
}
# What no expression makes again.
LOST = {
    "a bit": "JSON_ARRAY(1, bits)",
    "a blob": "JSON_OBJECT('a', JSON_OBJECT('b', bytes))",
    "a blob at the top": "CAST(bytes AS JSON)",
}
PLAIN = [
    "NULL",
    "'null'",
    "'1'",
    "'-1.5e-7'",
    '\'{"a": [1, 2.5, 1e300, true, null, "b"], "c": {"d": 18446744073709551615}}\'',
    '\'["2026-10-01", "2026-10-01 05:00:00.000000", "-05:00:00.000000", "base64:type15:eA==", "1, 2"]\'',
    "JSON_OBJECT('n', CAST(5 AS UNSIGNED), 'd', 0.1e0, 'z', -0e0, 'b', TRUE)",
]


def made(url: str, tmp_path: Path, *values: str) -> Scene:
    scene = Scene(url, tmp_path / "backups")
    scene.run(JSON_TABLE.format(name=scene.name))
    for number, value in enumerate(values, 1):
        add(scene, number, value)
    return scene


def add(scene: Scene, number: int, value: str) -> None:
    with scene.connected() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {scene.name} (log_id, created_at, bits, bytes)"  # noqa: S608
            f" VALUES ({number}, '2026-10-01 01:00:00', b'101', 'x')"
        )
        connection.exec_driver_sql(f"UPDATE {scene.name} SET tool_calls = {value} WHERE log_id = {number}")  # noqa: S608


def types_of(scene: Scene) -> list[Any]:
    """The types of all values in the documents, as the server has them."""
    inside = (
        f"(SELECT GROUP_CONCAT(JSON_TYPE(v)) FROM JSON_TABLE(tool_calls, '{path}' COLUMNS (v JSON PATH '$')) AS j)"  # noqa: S608
        for path in ("$**.*", "$**[*]")
    )
    rows = scene.run(f"SELECT JSON_TYPE(tool_calls), {', '.join(inside)} FROM {scene.name} ORDER BY log_id")  # noqa: S608
    # A small number is the same number, whether its sign has a bit.
    return [tuple(text and text.replace("UNSIGNED ", "") for text in row) for row in rows]


def comes_back(scene: Scene, rows: int) -> None:
    before, types = scene.state(), types_of(scene)
    scene.archive()
    assert scene.purge().deleted == rows
    assert scene.restore().written == rows
    assert (scene.state(), types_of(scene)) == (before, types)
    again = scene.restore()
    assert (again.written, again.already_there) == (0, rows)
    assert scene.archive().outcome == "unchanged"
    # Into a new table too.
    scene.restore(table="copy_of_logs")
    assert scene.state("copy_of_logs") == before


@pytest.mark.long
@pytest.mark.parametrize("what", list(HIDDEN))
def test_types_inside_json_come_back(mysql_url: str, tmp_path: Path, what: str) -> None:
    comes_back(made(mysql_url, tmp_path, PLAIN[4], HIDDEN[what], "NULL", HIDDEN[what]), 4)


@pytest.mark.long
def test_documents_with_and_without_types_of_many_days_come_back(mysql_url: str, tmp_path: Path) -> None:
    scene = made(mysql_url, tmp_path, *HIDDEN.values(), *PLAIN)
    scene.run(f"UPDATE {scene.name} SET created_at = '2026-10-02 01:00:00' WHERE log_id % 2 = 0")  # noqa: S608
    scene.run(
        f"INSERT INTO {scene.name} (log_id, tool_calls, created_at) VALUES (99, '[1]', '2026-10-03 01:00:00')"  # noqa: S608
    )
    before, types = scene.state(), types_of(scene)
    with scene.store() as store:
        for day in (DAY, NEXT_DAY, THIRD_DAY):
            archive_day(store, scene.storage, day, now=NOW)
    assert scene.purge(chunk_size=3).deleted == len(before)
    scene.restore(DAY, THIRD_DAY)
    assert (scene.state(), types_of(scene)) == (before, types)


@pytest.mark.long
@pytest.mark.parametrize("what", list(LOST))
def test_a_day_whose_json_holds_what_no_restore_makes_again_is_refused_with_the_number_of_rows(
    mysql_url: str, tmp_path: Path, what: str
) -> None:
    scene = made(mysql_url, tmp_path, HIDDEN["a decimal"], LOST[what], LOST[what])
    before = scene.state()
    with pytest.raises(Refused, match=r"2 in tool_calls"):
        scene.archive()
    assert scene.files().parts == ()
    assert scene.purge().unarchived_days == [str(DAY)]
    assert scene.state() == before


@pytest.mark.long
def test_json_that_its_text_says_is_archived_as_before(mysql_url: str, tmp_path: Path) -> None:
    scene = made(mysql_url, tmp_path, *PLAIN)
    comes_back(scene, len(PLAIN))
    assert b"\t" not in scene.data_file().read_bytes()


def test_no_purge_relies_on_an_archive_of_an_earlier_version_for_json_that_it_would_not_give_back(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = made(mysql_url, tmp_path, HIDDEN["a date"], "'[1]'", HIDDEN["a decimal that a double equals"])
    before, types = scene.state(), types_of(scene)
    archived_by_an_earlier_version(scene, monkeypatch)
    outcome = scene.purge(dry_run=True)
    assert (outcome.deletable, outcome.kept_changed) == (1, 2)
    outcome = scene.purge()
    assert (outcome.deleted, outcome.kept_changed, scene.ids()) == (1, 2, [1, 3])
    assert scene.archive().rows_written == 2
    assert scene.purge().deleted == 2
    scene.restore()
    assert (scene.state(), types_of(scene)) == (before, types)


def test_decimals_that_an_earlier_version_archived_and_purged_come_back(
    mysql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as their text shows them: 0.10 is no double."""
    shown = ["a decimal", "a decimal beyond a double", "a decimal at the top"]
    scene = made(mysql_url, tmp_path, *(HIDDEN[what] for what in shown), *PLAIN)
    before, types = scene.state(), types_of(scene)
    archived_by_an_earlier_version(scene, monkeypatch)
    scene.remove("TRUE")
    assert scene.restore().written == len(before)
    assert (scene.state(), types_of(scene)) == (before, types)


def test_a_document_that_got_a_decimal_after_it_was_archived_stays_and_is_archived_anew(
    mysql_url: str, tmp_path: Path
) -> None:
    scene = made(mysql_url, tmp_path, "'[1]'", "'[2]'")
    scene.archive()
    scene.update("tool_calls = JSON_ARRAY(1.25)", "log_id = 2")
    assert (scene.purge().deleted, scene.ids()) == (1, [2])
    before, types = scene.state(), types_of(scene)
    scene.archive()
    assert scene.purge().deleted == 1
    scene.restore()
    scene.remove("log_id = 1")
    assert (scene.state(), types_of(scene)) == (before, types)


@pytest.mark.long
@pytest.mark.parametrize(
    ("document", "value"),
    [
        ("""'{"a": "2026-10-01", "b": 0.5}'""", "CAST('2026-10-01' AS DATE), '$.b', CAST(0.5 AS DECIMAL(2, 1))"),
        ("""'{"a": "2026-10-01", "b": "x"}'""", "CAST('2026-10-01' AS DATE)"),
        ("JSON_OBJECT('a', CAST('2026-10-01' AS DATE), 'b', CURDATE())", "'2026-10-01'"),
    ],
)
def test_a_document_that_changed_to_another_type_with_the_same_text_stays_and_is_archived_anew(
    mysql_url: str, document: str, value: str, tmp_path: Path
) -> None:
    scene = made(mysql_url, tmp_path, document, document)
    scene.archive()
    scene.update(f"tool_calls = JSON_SET(tool_calls, '$.a', {value})", "log_id = 2")
    before, types = scene.state(), types_of(scene)
    assert types[0] != types[1]
    assert scene.purge(dry_run=True).deletable == 1
    result = scene.purge()
    assert (result.deleted, result.kept_changed, scene.ids()) == (1, 1, [2])
    assert scene.archive().rows_written == 1
    assert scene.archive().outcome == "unchanged"
    assert scene.purge().deleted == 1
    scene.restore()
    assert (scene.state(), types_of(scene)) == (before, types)


@pytest.mark.long
@pytest.mark.parametrize("other", ["mariadb_url", "postgres_url", "sqlite_url"])
def test_types_inside_json_are_left_out_where_another_engine_gets_the_rows(
    mysql_url: str, tmp_path: Path, other: str, request: pytest.FixtureRequest
) -> None:
    scene = made(mysql_url, tmp_path, HIDDEN["a decimal"], HIDDEN["a date"], "'[1]'")
    scene.archive()
    kind = {"mariadb_url": "JSON", "postgres_url": "jsonb", "sqlite_url": "text"}[other]
    target = Scene(request.getfixturevalue(other), scene.folder)
    target.run(
        f"CREATE TABLE {target.name} (log_id bigint PRIMARY KEY, tool_calls {kind}, bits int, bytes varchar(9),"
        " created_at timestamp)"
    )
    with scene.connected() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {scene.name} DROP COLUMN bits, DROP COLUMN bytes")
    scene.archive()
    assert scene.restore(url=target.url).written == 3


def archived_by_an_earlier_version(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions checked nothing, and their manifests say nothing about it."""
    from saju_ops.archive import day as archive

    def manifest(self: Any, *args: Any) -> Any:
        made = write_manifest(self, *args)
        made.extra.pop(comeback.MARK)
        return made

    write_manifest = archive.DayArchiver._manifest
    with monkeypatch.context() as earlier:
        earlier.setattr(archive.DayArchiver, "_require_comeback", lambda *_: comeback.Comeback())
        earlier.setattr(archive.DayArchiver, "_manifest", manifest)
        scene.archive()


# --- the drill of verify -----------------------------------------------------------------------------------------

EVERY_KIND = {
    "mysql": (
        "n decimal(65,30), f float, d double, b varbinary(9), e bit(9), j json, t time(6), y year,"
        " g int(8) zerofill, s varchar(9)",
        "1.100000000000000000000000000001, 0.1, 0.30000000000000004, x'00FF', b'101', '{\"a\": 1.0}', '-01:00:00',"
        " 2026, 7, '0010'",
    ),
    "postgresql": (
        "n numeric, f float4, d float8, b bytea, j jsonb, t timestamptz, a text[]",
        "1.10000000000000000000000000000000000010, 0.1, 0.30000000000000004, '\\x00ff', '{\"a\": 1.00}',"
        " '2026-10-01 00:00:00+09', '{a,NULL}'",
    ),
    "sqlite": ("n, d real, b blob", "'1.10', 0.30000000000000004, x'00ff'"),
}


def of_every_kind(url: str, tmp_path: Path, key: str = "bigint") -> Scene:
    scene = Scene(url, tmp_path / "backups")
    columns, values = EVERY_KIND[scene.family]
    with scene.connected() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE {scene.name} (log_id {key} PRIMARY KEY, created_at timestamp NOT NULL, {columns})"
        )
        nulls = ", ".join(["NULL"] * (columns.replace("65,", "").count(",") + 1))
        for number, cells in enumerate((values, nulls, values)):
            connection.exec_driver_sql(
                f"INSERT INTO {scene.name} VALUES ({number}.0, '2026-10-01 01:00:00', {cells})"  # noqa: S608
            )
    scene.archive()
    return scene


def drilled(scene: Scene) -> Any:
    return archive_drill(scene.storage, now=NOW, zone=SEOUL)


@pytest.mark.long
@pytest.mark.parametrize("key", ["bigint", "decimal(20,5)"])
def test_a_drill_gives_back_every_value_of_every_engine(database_url: str, tmp_path: Path, key: str) -> None:
    drill = drilled(of_every_kind(database_url, tmp_path, key))
    assert (drill.passed, drill.records) == (True, 3), drill.text


def test_a_drill_compares_values_and_not_only_the_number_of_rows(
    mysql_url: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scratch database that changes one cell."""
    scenes = [of_every_kind(mysql_url, tmp_path / "1"), of_every_kind(postgres_url, tmp_path / "2")]
    decode = sqlite.decode_cell
    monkeypatch.setattr(sqlite, "decode_cell", lambda c, v: decode(c, v) if c.encoding != "hex" else b"other")
    for scene in scenes:
        drill = drilled(scene)
        assert (drill.passed, drill.tried) == (False, True)
        assert "other values" in drill.text


def test_json_of_postgresql_keeps_its_digits(postgres_url: str, tmp_path: Path) -> None:
    scene = Scene(postgres_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, created_at timestamptz NOT NULL, j json, b jsonb)"
    )
    document = '{"n": 0.10, "m": 1.123456789012345678901234567890, "x": 1e400, "i": 123456789012345678901234567890}'
    scene.insert([{"log_id": 1, "created_at": DAY.start, "j": f" {document} ", "b": document}])
    before = scene.state()
    scene.archive()
    assert scene.purge().deleted == 1
    scene.restore()
    assert scene.state() == before


def test_json_of_mariadb_is_a_text_and_comes_back_as_it_is(mariadb_url: str, tmp_path: Path) -> None:
    scene = Scene(mariadb_url, tmp_path / "backups")
    scene.run(
        f"CREATE TABLE {scene.name} (log_id bigint PRIMARY KEY, created_at timestamp NOT NULL, j json)",
        f"""INSERT INTO {scene.name} VALUES (1, '2026-10-01 01:00:00', JSON_SET('{{ "a" : 1.50 }}', '$.cost', 0.10))""",  # noqa: S608
    )
    before = scene.state()
    scene.archive()
    assert scene.purge().deleted == 1
    scene.restore()
    assert scene.state() == before


@pytest.mark.parametrize(
    ("document", "doubtful"),
    [
        ("1", True), ("-1", True), ('"a"', False), ("[1]", True), ('["1"]', False), ('{"a": 1}', True),
        ('{"a": -1}', True), ('["2026-10-01"]', True), ('"2026-10-01 00:00:00.000000"', True),
        ('"-05:00:00.500000"', True), ('"105:00:00.500000"', True), ('"-105:00:00.500000"', True),
        ('"base64:type15:"', True), ("[]", False), ('{"a": [true, 2]}', True), ("null", False), ('""', False),
        ('{"birth": "1990-05-05T09:30", "n": "call 5 or 6"}', False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], ['{"x": "y"}'], [None, '"q"']])
def test_the_server_looks_into_documents_that_may_hide_something_alone(
    document: str, doubtful: bool, before: list[str | None]
) -> None:
    import pyarrow as pa

    column = Column("j", "json", "text", framed=False, family="json")
    cells = [c and c.encode() for c in ["9", *before, document]]
    doubts = comeback.Doubts([column])
    doubts.visit(pa.RecordBatch.from_arrays([pa.array(cells, pa.binary())], ["j"]).slice(1))
    assert doubts.found == doubtful


@pytest.mark.parametrize(
    "types", [".2 DECIMAL", ".1 SLEEP", ".1", "x DECIMAL", ".1 DECIMAL,", "$ DATE)", ".1 DECIMAL DATE"]
)
def test_types_that_saju_ops_did_not_write_are_refused(types: str) -> None:
    with pytest.raises(ProofFailed, match="didn't write"):
        mysql_json.document(f'{{"a": 1.5}}\t{types}')
