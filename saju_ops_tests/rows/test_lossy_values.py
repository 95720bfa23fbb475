"""Values of which the server can't give the whole text: no archive counts as holding them, and no purge takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from saju_ops.errors import OperatorError, Refused
from saju_ops_tests.archive.scene import Scene

PACKET = 1 << 20
TABLE = "CREATE TABLE {name} (log_id bigint PRIMARY KEY, v {kind}, created_at timestamp(6) NOT NULL, KEY (created_at))"
# What neither server has in UTF-8, what MySQL has as NULL, and what MySQL's and MariaDB's conversion makes another.
LOSSY = {
    "euckr": ("varchar(40) CHARACTER SET euckr", "_euckr x'c9a1'"),
    "euckr not null": ("varchar(40) CHARACTER SET euckr NOT NULL", "_euckr x'c9a1'"),
    "sjis": ("text CHARACTER SET sjis", "_sjis x'5c'"),
    "binary enum": ("enum('a', x'fd') CHARACTER SET binary", "2"),
    "enum with the byte that pieces have for NULL": ("enum('a', x'ff')", "2"),
    "enum with the byte that parts the cells of pieces": ("enum('a', x'62fe63')", "2"),
}


@pytest.fixture(params=["mysql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def small_packet(request: pytest.FixtureRequest) -> Iterator[None]:
    servers = [request.getfixturevalue(f"{name}_server") for name in ("mysql", "mariadb")]
    before = [server.execute("SELECT @@GLOBAL.max_allowed_packet")[0][0] for server in servers]
    for server in servers:
        server.execute(f"SET GLOBAL max_allowed_packet = {PACKET}")
    yield
    for server, value in zip(servers, before, strict=True):
        server.execute(f"SET GLOBAL max_allowed_packet = {value}")


def scene_of(url: str, tmp_path: Path, kind: str, *values: str) -> Scene:
    """With the tests' loose sql_mode, in which both servers take members of an ENUM that aren't UTF-8."""
    scene = Scene(url, tmp_path / "backups")
    scene.run(TABLE.format(name=scene.name, kind=kind))
    for number, value in enumerate(values, 1):
        scene.run(f"INSERT INTO {scene.name} VALUES ({number}, {value}, '2026-10-01 01:00:00')")  # noqa: S608
    return scene


@pytest.mark.long
@pytest.mark.parametrize("case", list(LOSSY))
def test_a_character_that_utf8_lacks_is_refused_and_not_archived_as_another(
    url: str, tmp_path: Path, case: str
) -> None:
    kind, value = LOSSY[case]
    scene = scene_of(url, tmp_path, kind, "'a'", value, value)
    with pytest.raises(Refused, match=r"2 in v"):
        scene.archive()
    assert scene.purge().unarchived_days == ["2026-10-01"]
    assert scene.ids() == [1, 2, 3]


@pytest.mark.long
def test_a_byte_that_is_not_ascii_in_a_column_of_ascii_comes_back_or_is_refused(url: str, tmp_path: Path) -> None:
    """MariaDB lets it in."""
    scene = scene_of(url, tmp_path, "varchar(40) CHARACTER SET ascii", "'a'", "_binary x'ff'", "_binary x'61fe62'")
    before = scene.state()
    with suppress(Refused):
        scene.archive()
    assert scene.purge().deleted in (0, 3)
    if scene.files().parts:
        scene.restore()
    assert scene.state() == before


@pytest.mark.long
@pytest.mark.parametrize("charset", ["latin1", "ascii", "utf16", "ucs2", "utf8mb3", "euckr"])
def test_what_utf8_has_comes_back_from_other_character_sets(url: str, tmp_path: Path, charset: str) -> None:
    known = {"latin1": "'é'", "ascii": "'a'"}.get(charset, "'가, 나'")
    scene = scene_of(url, tmp_path, f"varchar(40) CHARACTER SET {charset}", known, "NULL", "''")
    before = scene.state()
    scene.archive()
    assert (scene.purge().deleted, scene.ids()) == (3, [])
    scene.restore()
    assert scene.state() == before


@pytest.mark.long
@pytest.mark.usefixtures("small_packet")
@pytest.mark.parametrize("kind", ["longblob", "longblob NOT NULL", "longtext CHARACTER SET latin1"])
def test_a_value_that_the_server_will_not_print_whole_is_refused_and_not_archived_as_null(
    url: str, tmp_path: Path, kind: str
) -> None:
    scene = scene_of(url, tmp_path, kind, "'a'", f"REPEAT(_latin1 x'e9', {PACKET - 1000})")
    with pytest.raises(OperatorError, match="max_allowed_packet"):
        scene.archive()
    assert not scene.files().parts
    assert scene.ids() == [1, 2]


@pytest.mark.long
@pytest.mark.usefixtures("small_packet")
@pytest.mark.parametrize(
    ("kind", "value"),
    [("longblob", f"REPEAT('a', {PACKET - 1000})"), ("varchar(40) CHARACTER SET euckr", "_euckr x'c9a1'")],
)
def test_a_row_archived_with_null_that_is_such_a_value_now_stays(
    url: str, tmp_path: Path, kind: str, value: str
) -> None:
    scene = scene_of(url, tmp_path, kind, "NULL", "NULL", "'b'")
    scene.archive()
    scene.update(f"v = {value}", "log_id = 2")
    outcome = scene.purge()
    assert (outcome.deleted, outcome.kept_changed, scene.ids()) == (2, 1, [2])


def test_a_lossy_archive_of_an_earlier_version_takes_no_row(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saju_ops.rows.engines.mysql.store import MySQLRowStore

    def lossy(self: Any, column: Any) -> Any:
        return self._printed(column)

    scene = scene_of(url, tmp_path, "varchar(40) CHARACTER SET euckr", "'a'", "_euckr x'c9a1'")
    with monkeypatch.context() as earlier:
        earlier.setattr(MySQLRowStore, "text", lossy)
        scene.archive()
    outcome = scene.purge()
    assert (outcome.deleted, outcome.kept_changed, scene.ids()) == (1, 1, [2])
