"""The demo service: as large and lively as promised, the same for one seed, and only in its own folder."""

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from saju_ops.demo import collections, rows
from saju_ops.demo.folder import DemoFolderError
from saju_ops.demo.service import DemoService, make_service, open_service
from saju_ops.demo.texts import BRANCHES, STEMS

NOW = datetime(2026, 11, 20, 13, 45, 30, tzinfo=UTC)
SMALL = {"days": 12, "rows": 900}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DemoService:
    return make_service(tmp_path_factory.mktemp("demo") / "service", now=NOW)


@pytest.fixture
def few_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    few = dict.fromkeys(collections.COLLECTIONS, 20)
    for module in ("collections", "rows", "service"):
        monkeypatch.setattr(f"saju_ops.demo.{module}.COLLECTIONS", few)


def query(service: DemoService, sql: str) -> list[tuple]:
    with sqlite3.connect(service.database) as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


def value(service: DemoService, sql: str) -> int:
    return query(service, sql)[0][0]


def dump(service: DemoService) -> dict[str, list[tuple]]:
    return {table: query(service, f"SELECT * FROM {table} ORDER BY 1, 2") for table in service.rows}  # noqa: S608


def files(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_it_holds_at_least_60_days_and_20000_messages(made: DemoService) -> None:
    assert value(made, "SELECT count(*) FROM conversation_logs") == 24_000
    in_seoul = "date(created_at, '+9 hours')"
    assert value(made, f"SELECT count(DISTINCT {in_seoul}) FROM conversation_logs") >= 60  # noqa: S608


def test_it_says_how_many_rows_each_table_got(made: DemoService) -> None:
    counted = {table: value(made, f"SELECT count(*) FROM {table}") for table in made.rows}  # noqa: S608
    assert counted == made.rows
    assert all(made.rows.values())


def test_the_last_message_came_shortly_before_now_and_none_after(made: DemoService) -> None:
    last = datetime.fromisoformat(str(value(made, "SELECT max(created_at) FROM conversation_logs")))
    assert timedelta() < NOW.replace(tzinfo=None) - last < timedelta(minutes=1)


def test_log_ids_grow_with_time_and_orders_within_a_session_have_no_gap(made: DemoService) -> None:
    times = [at for (at,) in query(made, "SELECT created_at FROM conversation_logs ORDER BY log_id")]
    assert times == sorted(times)
    gaps = "SELECT 1 FROM conversation_logs GROUP BY session_id HAVING max(message_order) <> count(*)"
    assert query(made, gaps) == []


def test_the_day_has_its_peak_in_the_evening_of_seoul(made: DemoService) -> None:
    by_hour = dict(
        query(made, "SELECT strftime('%H', created_at, '+9 hours'), count(*) FROM conversation_logs GROUP BY 1")
    )
    assert max(by_hour, key=by_hour.__getitem__) in {"20", "21", "22"}
    assert by_hour["21"] > 5 * by_hour["04"]


def test_the_messages_vary_and_hold_what_is_hard_to_archive(made: DemoService) -> None:
    logs = "SELECT count(*) FROM conversation_logs WHERE "
    assert value(made, "SELECT count(DISTINCT content) FROM conversation_logs") > 12_000
    assert value(made, "SELECT count(DISTINCT role) FROM conversation_logs") == 3
    for condition in (
        "content = ''",
        "content LIKE '%' || char(10) || '%'",
        "content LIKE '%\"%'",
        "content LIKE '%''%'",
        "content LIKE '%,%'",
        "content LIKE '%\\%'",
        "content LIKE '%🔮%'",
        "tool_calls IS NULL",
        "json_extract(tool_calls, '$[0].function.name') = 'calculate_saju'",
        "role = 'assistant' AND tokens_used IS NULL",
        "response_time_ms > 500",
    ):
        assert value(made, logs + condition) > 0, condition


def test_its_foreign_keys_hold(made: DemoService) -> None:
    assert query(made, "PRAGMA foreign_key_check") == []
    assert query(made, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.long
def test_sessions_expire_30_minutes_after_their_creation_and_outlast_their_messages(
    made: DemoService,
) -> None:
    minutes = "round((julianday(expires_at) - julianday(created_at)) * 1440)"
    assert query(made, f"SELECT DISTINCT {minutes} FROM user_sessions") == [(30.0,)]  # noqa: S608
    assert value(made, "SELECT count(*) FROM user_sessions WHERE last_activity > expires_at") == 0


def test_pillars_are_of_the_sixty_and_right_for_a_known_day(made: DemoService) -> None:
    sixty = {STEMS[i % 10] + BRANCHES[i % 12] for i in range(60)}
    for row in query(made, "SELECT year_ganji, month_ganji, day_ganji, time_ganji FROM saju_calculations"):
        assert set(row) <= sixty
    assert rows._pillars(datetime(1949, 10, 1, 12, 0)) == ("기축", "계유", "갑자", "경오")  # noqa: DTZ001 - wall clock
    assert rows._pillars(datetime(2000, 1, 1, 0, 30)) == ("기묘", "병자", "무오", "임자")  # noqa: DTZ001 - wall clock


def test_some_paid_jobs_are_expired_and_some_not_and_each_has_all_its_children(made: DemoService) -> None:
    now = NOW.strftime("%Y-%m-%d %H:%M:%S")
    expired = value(made, f"SELECT count(*) FROM jobs WHERE expires_at < '{now}'")  # noqa: S608
    assert 0 < expired < made.rows["jobs"]
    per_job = "SELECT count(c.id) FROM jobs LEFT JOIN {} c ON job_id = jobs.id GROUP BY jobs.id"
    for child, each in (("payments", 1), ("job_files", 4), ("reports", 1)):
        assert set(query(made, per_job.format(child))) == {(each,)}, child
    assert value(made, "SELECT count(DISTINCT s3_key) FROM job_files") == made.rows["job_files"]


def test_stale_analysis_jobs_are_there_with_and_without_results(made: DemoService) -> None:
    day_ago = (NOW - timedelta(hours=24)).strftime("%Y-%m-%d %H:%M:%S")
    found = query(
        made,
        "SELECT DISTINCT j.status, EXISTS (SELECT 1 FROM analysis_results r"  # noqa: S608
        " WHERE r.job_id = j.job_id AND r.status = 'completed')"
        f" FROM analysis_jobs j WHERE j.status <> 'completed' AND created_at < '{day_ago}'",
    )
    assert set(found) == {("pending", 0), ("processing", 1)}


def test_its_chroma_collections_open_with_unit_vectors_of_768_dimensions_and_no_model(
    made: DemoService,
) -> None:
    import chromadb
    import numpy
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(path=str(made.chroma), settings=settings)
    try:
        fields = {
            "saju_knowledge": {"category", "subcategory", "element", "keywords", "source", "importance"},
            "interpretation_rules": {"rule_type", "conditions", "confidence", "source"},
            "fortune_patterns": {
                "pattern_type", "shipsung_involved", "timing", "strength_condition", "reliability",
            },
        }  # fmt: skip
        for name, names in fields.items():
            collection = client.get_collection(name, embedding_function=None)
            assert collection.count() == made.collections[name] > 100
            got = collection.get(limit=50, include=["embeddings", "metadatas", "documents"])
            assert got["embeddings"].shape == (50, 768)
            assert numpy.allclose(numpy.linalg.norm(got["embeddings"], axis=1), 1, atol=1e-5)
            assert all(set(metadata) == names for metadata in got["metadatas"])
            assert all("가" <= document[0] <= "힣" for document in got["documents"])
            assert collection.configuration["embedding_function"] is None
    finally:
        client.close()


@pytest.mark.usefixtures("few_vectors")
def test_the_same_seed_and_now_give_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    one = make_service(tmp_path / "one", now=NOW, **SMALL)
    same = make_service(tmp_path / "same", now=NOW.replace(tzinfo=None), **SMALL)
    other = make_service(tmp_path / "other", now=NOW, seed=21, **SMALL)
    assert dump(one) == dump(same)
    assert all(dump(one)[table] != dump(other)[table] for table in one.rows)


def test_the_vectors_of_the_same_seed_are_the_same() -> None:
    one, same, other = (collections._unit_vectors([0, 1, 1], seed, "saju_knowledge") for seed in (20, 20, 21))
    assert (one == same).all()
    assert not (one == other).any()


@pytest.mark.usefixtures("few_vectors")
def test_what_was_made_can_be_opened_and_what_is_missing_cannot(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    assert open_service(folder) is None
    service = make_service(folder, now=NOW, **SMALL)
    assert open_service(folder) == service
    service.database.unlink()
    assert open_service(folder) is None


@pytest.mark.usefixtures("few_vectors")
def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    progress_of: dict[str, list[tuple[int, int]]] = {}
    make_service(
        tmp_path / "service",
        now=NOW,
        progress=lambda stage, done, total: progress_of.setdefault(stage, []).append((done, total)),
        **SMALL,
    )
    assert list(progress_of) == ["messages", "database rows", "vectors"]
    for steps in progress_of.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("name", ["notes.txt", ".saju_ops_demo", "service.db"])
def test_it_refuses_a_folder_that_it_did_not_make_and_leaves_it_untouched(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / name).write_text("somebody else's", "utf-8")
    before = files(tmp_path)
    with pytest.raises(DemoFolderError, match=r"was not made by the demo.*Nothing in it was changed"):
        make_service(folder, now=NOW, **SMALL)
    assert files(tmp_path) == before
    assert open_service(folder) is None


def test_it_refuses_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(DemoFolderError, match="is not a folder"):
        make_service(tmp_path / "file", now=NOW)


@pytest.mark.usefixtures("few_vectors")
def test_a_folder_that_somebody_fills_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "service"

    def somebody_writes(stage: str, done: int, total: int) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "precious.txt").write_text("precious", "utf-8")

    with pytest.raises(DemoFolderError, match="was not made by the demo"):
        make_service(folder, now=NOW, progress=somebody_writes, **SMALL)
    assert files(tmp_path) == {"service": None, "service/precious.txt": b"precious"}


@pytest.mark.usefixtures("few_vectors")
def test_an_empty_folder_is_used_and_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    folder.mkdir()
    make_service(folder, now=NOW, **SMALL)
    again = make_service(folder, now=NOW, seed=3, days=12, rows=300)
    assert open_service(folder) == again
    assert value(again, "SELECT count(*) FROM conversation_logs") == 300
    assert [path.name for path in tmp_path.iterdir()] == ["service"]


@pytest.mark.usefixtures("few_vectors")
def test_a_second_run_at_the_same_time_steps_back(tmp_path: Path) -> None:
    folder, refused = tmp_path / "service", []

    def run_another(stage: str, done: int, total: int) -> None:
        if not refused:
            with pytest.raises(DemoFolderError, match="Another run") as error:
                make_service(folder, now=NOW, **SMALL)
            refused.append(error)

    service = make_service(folder, now=NOW, progress=run_another, **SMALL)
    assert refused
    assert open_service(folder) == service


KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from saju_ops.demo.service import make_service

def die(stage, done, total):
    if stage == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

make_service(Path(sys.argv[1]), now=datetime.fromisoformat(sys.argv[3]), days=12, rows=900, progress=die)
"""


@pytest.mark.long
@pytest.mark.usefixtures("few_vectors")
@pytest.mark.parametrize("stage", ["messages", "database rows", "vectors"])
@pytest.mark.parametrize("stood_there", [False, True])
def test_a_killed_run_leaves_no_service_and_the_next_clears_it_away(
    tmp_path: Path, stage: str, stood_there: bool
) -> None:
    folder = tmp_path / "service"
    earlier = make_service(folder, now=NOW, **SMALL) if stood_there else None
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), stage, NOW.isoformat()], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert open_service(folder) == earlier
    leftovers = [path for path in tmp_path.iterdir() if path != folder]
    assert len(leftovers) == 1
    assert open_service(leftovers[0]) is None
    service = make_service(folder, now=NOW, **SMALL)
    assert open_service(folder) == service
    assert os.listdir(tmp_path) == ["service"]  # noqa: PTH208 - hidden files too
