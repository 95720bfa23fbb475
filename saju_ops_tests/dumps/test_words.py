"""Tables, columns, indexes and views whose names are words that a server reserves and SQLAlchemy doesn't know."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from saju_ops.masking.dump import take_masked_dump
from saju_ops_tests.dumps.scene import AT_THREE, Dumps, options

WORDS = {
    "mysql": ["library", "external", "tablesample", "manual", "qualify", "lateral"],
    "mariadb": ["portion", "offset", "except", "rows"],
    "postgres": ["collation", "lateral", "concurrently", "tablesample", "authorization"],
    "sqlite": ["returning", "nothing", "order", "index"],
}


def contents(url: str, words: list[str]) -> dict[str, list[tuple[object, ...]]]:
    with sa.create_engine(url).connect() as connection:
        quote = connection.dialect.identifier_preparer.quote_identifier
        names = [name for word in words for name in (word, f"{word}_view")]
        listed = {n: connection.exec_driver_sql(f"SELECT * FROM {quote(n)} ORDER BY 1").all() for n in names}  # noqa: S608
    return {name: [tuple(row) for row in rows] for name, rows in listed.items()}


@pytest.fixture(params=list(WORDS))
def database(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    words = WORDS[request.param]
    with sa.create_engine(url).begin() as connection:
        quote = connection.dialect.identifier_preparer.quote_identifier
        for word in words:
            q = quote(word)
            connection.exec_driver_sql(f"CREATE TABLE {q} (id int PRIMARY KEY, {q} float)")
            connection.exec_driver_sql(f"CREATE INDEX {quote('i_' + word)} ON {q} ({q})")
            connection.exec_driver_sql(f"INSERT INTO {q} VALUES (1, 0.1), (2, 16777217), (3, NULL)")  # noqa: S608
            connection.exec_driver_sql(f"CREATE VIEW {quote(word + '_view')} AS SELECT {q} FROM {q}")  # noqa: S608
        for word, other in pairwise(words):
            if connection.dialect.name != "sqlite":
                name, key = quote(word), f"FOREIGN KEY (id) REFERENCES {quote(other)} (id)"
                connection.exec_driver_sql(f"ALTER TABLE {name} ADD CONSTRAINT {quote('k_' + word)} {key}")
    return url, words


@pytest.mark.long
def test_a_dump_is_proven_and_comes_back(database: tuple[str, list[str]], tmp_path: Path) -> None:
    url, words = database
    before = contents(url, words)
    dumps = Dumps(url, tmp_path)
    assert dumps.take().proven
    dumps.restore(replace=Path(str(sa.make_url(url).database)).stem)
    assert contents(url, words) == before


@pytest.mark.long
def test_a_masked_dump_of_them_is_made(database: tuple[str, list[str]], tmp_path: Path) -> None:
    dumps = Dumps(database[0], tmp_path)
    take_masked_dump(dumps.url, dumps.storage, options(), now=lambda: AT_THREE)
    assert any(name.endswith(".manifest.json") for name in dumps.names())
