"""SIGKILL at any moment of a rotation or a conversion: no row is lost or doubled, and the next run finishes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from saju_ops_tests.archive.fault_worker import Point
from saju_ops_tests.schema.partitions.kill_worker import WORK, killed_after, killed_at
from saju_ops_tests.schema.partitions.scene import PartitionScene, three_months
from saju_ops_tests.schema.partitions.test_convert import PlainScene

pytestmark = pytest.mark.long

MOVER = "saju_ops.schema.partitions.mysql"
POINTS = [
    Point(MOVER, "MySQLMover._exchange", "before"),
    Point(MOVER, "MySQLMover._exchange", "after"),
    # Behind the exchange of August, of which a row is not archived: on its way back.
    Point(MOVER, "MySQLMover.exchange_back", "before"),
    Point(MOVER, "MySQLMover.exchange_back", "after"),
    Point(MOVER, "MySQLMover.drop_side", "before"),
    Point(MOVER, "MySQLMover.drop_side", "after"),
    Point(MOVER, "MySQLMover.drop_locked", "before"),
    Point(MOVER, "MySQLMover.drop_locked", "after"),
    Point(MOVER, "MySQLMover.add_months", "before"),
    Point(MOVER, "MySQLMover.add_months", "after"),
]
# Thirty of each step, over the two engines.
CHANGED, KILLS = 25, 15


def prepared(scene: PartitionScene) -> list[tuple[object, ...]]:
    three_months(scene)
    scene.archive_all()
    scene.update("content = 'changed after its archive'", f"log_id = {CHANGED}")
    return scene.state()


def everywhere(scene: PartitionScene) -> list[tuple[object, ...]]:
    """The rows of the table and of the tables beside it."""
    sides = [name for name in scene.tables() if name.startswith("conversation_logs_")]
    return sorted(scene.state() + [row for side in sides for row in scene.state(side)], key=repr)


def require_whole(scene: PartitionScene, before: list[tuple[object, ...]]) -> None:
    found = everywhere(scene)
    assert len({row[0] for row in found}) == len(found), "a row is there twice"
    assert {*found} <= {*before}
    assert str(CHANGED) in {str(row[0]) for row in found}, "the row that no archive holds is gone"


def require_finished(scene: PartitionScene, before: list[tuple[object, ...]]) -> None:
    # The killed run's last statement may still be at work on the server.
    WORK["rotate"](scene.url, str(scene.folder))
    require_whole(scene, before)
    assert scene.ids() == [CHANGED, 1000, 1001, 1002]
    assert scene.tables() == ["conversation_logs"]
    assert list(scene.partitions()) == [
        "p202608", "p202610", "p202611", "p202612", "p202701", "p202702", "p_future",
    ]  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_rotation_that_is_killed_at_a_step_is_finished_by_the_next(scene: PartitionScene, point: Point) -> None:
    before = prepared(scene)
    assert killed_at("rotate", scene.url, str(scene.folder), point)
    require_whole(scene, before)
    require_finished(scene, before)


def test_a_rotation_that_is_killed_at_random_moments_loses_nothing(scene: PartitionScene) -> None:
    dice, seconds, landed = random.Random(4711), 4.0, 0
    for number in range(3 * KILLS):
        if landed == KILLS:
            return
        scene.run("DROP TABLE IF EXISTS conversation_logs")
        scene.folder = scene.folder.with_name(f"backups{number}")
        scene = type(scene)(scene.url, scene.folder).create()
        before = prepared(scene)
        if killed_after("rotate", scene.url, str(scene.folder), dice.uniform(0, seconds)):
            landed += 1
        else:
            seconds *= 0.85
        require_whole(scene, before)
        require_finished(scene, before)
    pytest.fail(f"only {landed} of {KILLS} kills came before the end of the run")


@pytest.mark.parametrize("what", ["convert", "convert online", "back"])
@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_a_conversion_that_is_killed_at_random_moments_loses_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str, what: str
) -> None:
    scene = PlainScene(request.getfixturevalue(f"{engine}_url"), tmp_path / "backups").plain()
    scene.add(3_000)
    definition, before = scene.definition(), scene.state()
    dice = random.Random(4711)
    for _ in range(KILLS):
        if what == "back":
            WORK["convert"](scene.url, "")
        killed_after(what, scene.url, "", dice.uniform(0, 3.0))
        # A program of the killed run ends with it, within moments.
        time.sleep(1.0)
        assert scene.state() == before
        WORK["back"](scene.url, "")
        assert (scene.definition(), scene.state()) == (definition, before)
        assert scene.tables() == ["conversation_logs", "user_sessions"]
        assert scene.run("SHOW TRIGGERS") == []
