"""saju_calculations keeps the birth in the clear; for expired sessions a false one can take its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from saju_ops.errors import Refused
from saju_ops.schema.birth_data import calculations as module
from saju_ops.schema.birth_data.work import BirthTables, Options, Worked, look, work
from saju_ops_tests.schema.birth_data.scene import BORN, LAST, NEW_KEY, OLD_KEY, UTC_ZONE, BirthScene, parsed

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Calculations(BirthScene):
    def calculation(self, number: int, session: str, born: datetime = BORN, lunar: bool = False) -> None:
        ganji = {f"{pillar}_ganji": "갑자" for pillar in ("year", "month", "day", "time")}
        dates = {"lunar_year": 1990, "lunar_month": 4, "lunar_day": 11}
        self.insert(
            "saju_calculations",
            {"calculation_id": number, "session_id": session, "birth_datetime": born, "is_lunar": lunar, **ganji,
             **dates},
        )  # fmt: skip

    @property
    def tables(self) -> BirthTables:
        return BirthTables(self.url, "user_sessions", UTC_ZONE)

    def work(self, *keys: str, dry_run: bool = False, **more: Any) -> Worked:
        return work(
            self.tables, parsed(*keys), Options(dry_run=dry_run), replace_dates=True, now=NOW,
            **{"require_dump": lambda: None, **more},
        )  # fmt: skip

    def births(self) -> dict[int, str]:
        rows = self.run("SELECT calculation_id, birth_datetime FROM saju_calculations")
        return {number: str(born)[:19] for number, born in rows}


@pytest.fixture
def scene(database_url: str) -> Calculations:
    found = Calculations(database_url)
    found.add("expired")
    found.add("alive", expires_at=datetime(2026, 4, 1))  # noqa: DTZ001
    found.add("used", last_activity=datetime(2026, 4, 1))  # noqa: DTZ001
    for number, session in enumerate(("expired", "alive", "used"), 1):
        found.calculation(number, session)
    found.calculation(4, "expired", BORN + timedelta(days=1))
    return found


@pytest.mark.long
def test_what_stays_in_the_clear_is_counted(scene: Calculations) -> None:
    scene.encrypt(NEW_KEY)
    found = look(scene.tables, parsed(NEW_KEY), NOW)
    dates = found.calculations
    assert (found.sessions.in_the_clear, dates.in_the_clear, dates.of_expired, dates.replaced) == (0, 4, 2, 0)


@pytest.mark.long
def test_only_expired_sessions_get_a_false_birth_and_lose_their_lunar_date(scene: Calculations) -> None:
    worked = scene.work(NEW_KEY)
    assert worked.replaced is not None
    assert (worked.replaced.replaced, worked.replaced.left) == (2, 0)
    assert (worked.calculations.in_the_clear, worked.calculations.of_expired, worked.calculations.replaced) == (2, 0, 2)
    births = scene.births()
    assert births[2] == births[3] == str(BORN)
    assert len({births[1], births[4], str(BORN)}) == 3
    assert all(1950 <= int(births[n][:4]) <= 2009 and births[n][17:] != "00" for n in (1, 4))
    lunar = scene.run("SELECT calculation_id, lunar_year, lunar_month, lunar_day FROM saju_calculations")
    assert {row[0]: row[1:] for row in lunar}[1] == (None, None, None)
    assert {row[0]: row[1:] for row in lunar}[2] == (1990, 4, 11)


@pytest.mark.long
def test_a_second_run_finds_nothing_to_do_with_a_newer_key_too(scene: Calculations) -> None:
    scene.work(OLD_KEY)
    births = scene.births()
    again = scene.work(NEW_KEY, OLD_KEY)
    assert again.replaced is not None
    assert again.replaced.replaced == 0
    assert scene.births() == births


@pytest.mark.long
def test_another_key_gives_another_false_birth(scene: Calculations) -> None:
    first, second = (module.false_moments(parsed(key)[0], (1,))[0] for key in (NEW_KEY, OLD_KEY))
    assert first != second


@pytest.mark.long
def test_two_rows_of_a_session_never_meet_at_one_birth(scene: Calculations, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every row drew the same moments."""
    moments = [datetime(1960, 1, 1, 0, 0, second) for second in range(1, 1 + module.TRIES)]  # noqa: DTZ001
    monkeypatch.setattr(module, "false_moments", lambda _key, _identity: moments)
    worked = scene.work(NEW_KEY)
    assert worked.replaced is not None
    assert worked.replaced.replaced == 2
    assert {scene.births()[1], scene.births()[4]} == {"1960-01-01 00:00:01", "1960-01-01 00:00:02"}


@pytest.mark.long
def test_a_dry_run_changes_no_calculation(scene: Calculations) -> None:
    before = scene.births()
    worked = scene.work(NEW_KEY, dry_run=True, require_dump=lambda: pytest.fail("no dump is needed"))
    assert worked.replaced is not None
    assert worked.replaced.replaced == 2
    assert scene.births() == before


@pytest.mark.long
def test_no_false_birth_without_a_proven_dump(scene: Calculations) -> None:
    scene.encrypt(NEW_KEY)
    before = scene.births()

    def none_is_there() -> None:
        raise Refused("no proven dump")

    with pytest.raises(Refused, match="no proven dump"):
        scene.work(NEW_KEY, require_dump=none_is_there)
    assert scene.births() == before


@pytest.mark.long
def test_the_dump_is_asked_for_once(scene: Calculations) -> None:
    asked: list[int] = []
    scene.work(NEW_KEY, require_dump=lambda: asked.append(1))
    assert asked == [1]


@pytest.mark.long
def test_a_database_without_calculations_is_one_without(scene: Calculations) -> None:
    scene.run("DROP TABLE saju_analyses")
    scene.run("DROP TABLE saju_calculations")
    worked = scene.work(NEW_KEY)
    assert (worked.replaced, worked.calculations.there) == (None, False)
    assert worked.encrypted.encrypted == 3


@pytest.mark.long
def test_the_last_use_of_a_session_counts_as_the_purge_counts_it(scene: Calculations) -> None:
    scene.run("UPDATE user_sessions SET last_activity = :at WHERE session_id = 'used'", at=LAST)
    assert look(scene.tables, parsed(NEW_KEY), NOW).calculations.of_expired == 3
