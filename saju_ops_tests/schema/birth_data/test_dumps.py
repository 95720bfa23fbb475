"""A dump holds the masked view and not its salt; after a restore the view shows nothing until there is another one."""

# ruff: noqa: S608 (the statements are this module's own)

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.dumps.without_rows import SALT_TABLE
from saju_ops.schema.masked_view import VIEW, look_at_view, make_salt
from saju_ops_tests.dumps.scene import Dumps, oracle_clients
from saju_ops_tests.masking.test_masking import masked, people
from saju_ops_tests.schema.birth_data.scene import BirthScene
from saju_ops_tests.schema.birth_data.test_masked_view import made, seen


@pytest.fixture
def target(database_url: str, tmp_path: Path) -> Iterator[str]:
    parsed = sa.make_url(database_url)
    if parsed.get_backend_name() == "sqlite":
        yield f"sqlite:///{tmp_path / 'target.db'}"
        return
    name = f"{parsed.database}_target"
    yield parsed.set(database=name).render_as_string(hide_password=False)
    admin = sa.create_engine(parsed, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
    admin.dispose()


def salt_of(scene: BirthScene) -> bytes:
    ((salt,),) = scene.run(f"SELECT salt FROM {SALT_TABLE}")
    return bytes(salt)


def forms(salt: bytes) -> list[bytes]:
    """As a dump program may write it: hexadecimal, or the bytes with what needs it escaped."""
    return [salt.hex().encode(), salt.hex().upper().encode(), salt[:12]]


@pytest.mark.long
@pytest.mark.parametrize("client", ["installed", "oracle"])
def test_a_proven_dump_has_the_view_and_no_salt(
    client: str, database_url: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if client == "oracle":
        if not database_url.startswith("mysql"):
            return
        monkeypatch.setenv("PATH", oracle_clients(tmp_path / "oracle", only=False))
    scene = made(database_url)
    salt = salt_of(scene)
    dumps = Dumps(database_url, tmp_path)
    result = dumps.take()
    assert result.proven, result.message
    content = gzip.decompress((tmp_path / "backups" / result.manifest.file).read_bytes())
    assert [form for form in forms(salt) if form in content] == []
    assert salt not in content
    restored = dumps.restore(target)
    assert any("salt of the masked view" in text and "saju-ops masked-view" in text for text in restored.left_out)
    copy = BirthScene(target)
    assert copy.run("SELECT COUNT(*) FROM user_sessions") == [(42,)]
    assert seen(copy) == []
    assert look_at_view(copy.url).there
    assert make_salt(copy.url)
    assert len(seen(copy)) == 42
    assert salt_of(copy) != salt
    assert salt_of(scene) == salt


@pytest.mark.long
def test_a_dump_of_a_database_without_the_view_says_nothing_of_it(
    database_url: str, target: str, tmp_path: Path
) -> None:
    scene = BirthScene(database_url)
    scene.add("s")
    dumps = Dumps(database_url, tmp_path)
    assert dumps.take().proven
    assert not any("masked view" in text for text in dumps.restore(target).left_out)


@pytest.mark.long
def test_a_masked_dump_has_neither_the_salt_nor_a_row_of_its_table(
    database_url: str, target: str, tmp_path: Path
) -> None:
    made_for_people(database_url)
    salt = salt_of(BirthScene(database_url))
    result = masked(database_url, tmp_path)
    assert result.proven, result.message
    content = gzip.decompress((tmp_path / "backups" / result.manifest.file).read_bytes())
    assert [form for form in forms(salt) if form in content] == []
    Dumps(database_url, tmp_path).restore(target, masked=True)
    copy = BirthScene(target)
    assert copy.run(f"SELECT COUNT(*) FROM {SALT_TABLE}") == [(0,)]
    assert make_salt(copy.url)
    assert copy.run(f"SELECT COUNT(*) FROM {VIEW}") == [(12,)]


def made_for_people(url: str) -> None:
    from saju_ops.schema.migrate import commands
    from saju_ops.schema.migrate.run import Options
    from saju_ops.schema.migrate.steps import Installation

    if url.startswith("sqlite"):
        Path(str(sa.make_url(url).database)).touch()
    commands.up(sa.make_url(url), Installation(), Options(), target="masked_view@head")
    people(url)
