"""Delivery to Slack: every answer that it can give, and none, loses no message and repeats none that it confirmed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from saju_ops.alerts import slack as slack_module
from saju_ops.alerts.channels import ChannelFailed
from saju_ops.alerts.outbox import Outbox
from saju_ops_tests.alerts.scene import Scene, message
from saju_ops_tests.fakes.slack import FakeSlack

POST = "chat.postMessage"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlack]:
    monkeypatch.setattr(slack_module, "TIMEOUT", 4)
    monkeypatch.setattr(slack_module, "RETRY_PAUSE", 0.01)
    with FakeSlack() as fake:
        yield fake


@pytest.fixture
def scene(tmp_path: Path, fake: FakeSlack) -> Scene:
    return Scene(tmp_path, fake)


def texts(fake: FakeSlack) -> list[str]:
    return [m.text.splitlines()[0] for m in fake.messages]


def test_a_message_is_posted_once_in_the_named_channel(scene: Scene, fake: FakeSlack) -> None:
    scene.add(message(1))
    scene.until_delivered()
    scene.deliver()
    (posted,) = fake.messages
    assert posted.channel == fake.channels["ai-reports"]
    assert "알림 1번" in posted.words
    assert posted.blocks
    assert posted.text


def test_a_channels_name_is_looked_up_page_by_page_and_once_only(scene: Scene, fake: FakeSlack) -> None:
    scene.add(message(1))
    scene.until_delivered()
    scene.add(message(2))
    scene.until_delivered()
    assert fake.calls.count("conversations.list") == 2  # two pages of two, once
    assert fake.calls.count(POST) == 2


def test_a_channels_id_is_not_looked_up(tmp_path: Path, fake: FakeSlack) -> None:
    scene = Scene(tmp_path, fake, channel="C0000000004")
    scene.add(message(1))
    scene.until_delivered()
    assert fake.calls == [POST]


def test_a_remembered_id_that_is_gone_is_looked_up_again(scene: Scene, fake: FakeSlack) -> None:
    scene.add(message(1))
    scene.until_delivered()
    fake.channels["ai-reports"] = "C0000000099"
    fake.member_of.add("C0000000099")
    scene.add(message(2))
    scene.until_delivered()
    assert [m.channel for m in fake.messages] == ["C0000000004", "C0000000099"]


def test_without_the_right_to_list_channels_slack_is_given_the_name(scene: Scene, fake: FakeSlack) -> None:
    fake.scopes -= {"channels:read", "groups:read"}
    scene.add(message(1))
    scene.until_delivered()
    assert len(fake.messages) == 1


@pytest.mark.parametrize(
    "kind",
    ["500", "503", "429", "reset", "garbage", "ok:internal_error", "ok:token_expired", "ok:invalid_auth",
     "ok:not_in_channel", "ok:ratelimited", "ok:is_archived"],
)  # fmt: skip
def test_after_any_passing_failure_every_message_arrives_once(scene: Scene, fake: FakeSlack, kind: str) -> None:
    fake.fault(POST, kind, times=5, retry_after=20)
    scene.add(*(message(n) for n in range(1, 6)))
    scene.until_delivered()
    assert sorted(texts(fake)) == [f"✅ *알림 {n}번*" for n in range(1, 6)]


@pytest.mark.long
def test_a_slack_that_does_not_answer_loses_nothing(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "hang", times=1, seconds=6)
    scene.add(message(1), message(2))
    (report,) = scene.deliver()
    assert "연결할 수 없습니다" in report.error
    scene.until_delivered()
    assert sorted(texts(fake)) == ["✅ *알림 1번*", "✅ *알림 2번*"]


def test_a_slack_that_is_down_loses_nothing_and_is_left_alone_for_a_while(scene: Scene, fake: FakeSlack) -> None:
    fake.down()
    scene.add(message(1))
    (report,) = scene.deliver()
    assert report.left == 1
    assert report.health is not None
    assert report.health.failures == 1
    scene.deliver()
    assert scene.outbox.health("slack").failures == 1, "it was not left alone"
    fake.up()
    scene.until_delivered()
    assert texts(fake) == ["✅ *알림 1번*"]
    assert scene.outbox.health("slack").failures == 0


def test_a_message_is_repeated_where_slacks_answer_was_lost_and_only_that_one(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "lost", times=2)
    scene.add(message(1), message(2))
    scene.until_delivered()
    assert texts(fake).count("✅ *알림 2번*") == 1
    assert texts(fake).count("✅ *알림 1번*") == 3


def test_retry_after_is_heeded_to_the_second(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "429", retry_after=120)
    scene.add(message(1))
    scene.deliver()
    calls = fake.calls.count(POST)
    scene.later(seconds=119)
    scene.deliver()
    assert fake.calls.count(POST) == calls, "Slack was asked before its Retry-After"
    scene.later(seconds=2)
    scene.deliver()
    assert len(fake.messages) == 1


def test_a_retry_after_of_years_is_an_hour(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "429", retry_after=10**9)
    scene.add(message(1))
    scene.deliver()
    scene.later(hours=1, seconds=1)
    scene.deliver()
    assert len(fake.messages) == 1


@pytest.mark.parametrize("kind", ["500", "ok:invalid_blocks"])
def test_a_clock_that_was_ahead_and_is_put_back_silences_nothing(scene: Scene, fake: FakeSlack, kind: str) -> None:
    """Whatever was to be tried again `later` then was later by years."""
    fake.fault(POST, kind, times=4)
    scene.add(message(1))
    scene.later(days=3650)
    scene.deliver()
    assert not fake.messages
    scene.later(days=-3650)
    scene.until_delivered(ticks=10)
    assert texts(fake) == ["✅ *알림 1번*"]


def test_on_a_full_disk_no_message_is_sent_again_and_again(
    scene: Scene, fake: FakeSlack, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.add(message(1))
    transaction = Outbox._transaction

    @contextmanager
    def full(self: Outbox) -> Any:
        with transaction(self) as db:
            # What is there is all that there may be.
            db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
            db.execute("CREATE TABLE filler AS SELECT zeroblob(1000000)")
            yield db

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "_transaction", full)
        for _ in range(3):
            (report,) = scene.deliver()
            assert report.error
            scene.later(seconds=30)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            scene.add(message(2))
    assert texts(fake) == []
    scene.until_delivered()
    assert texts(fake) == ["✅ *알림 1번*"]


def test_a_short_retry_after_is_waited_out_at_once(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "429", retry_after=1)
    scene.add(message(1))
    scene.deliver()
    assert len(fake.messages) == 1


@pytest.mark.parametrize("kind", ["ok:invalid_blocks", "ok:msg_too_long", "ok:something_new", "500"])
def test_one_message_that_slack_refuses_holds_up_no_other(scene: Scene, fake: FakeSlack, kind: str) -> None:
    fake.fault(POST, kind, times=0, where="알림 2번")
    scene.add(*(message(n) for n in range(1, 7)))
    for _ in range(12):
        scene.deliver()
        scene.later(seconds=60)
    assert sorted(texts(fake)) == [f"✅ *알림 {n}번*" for n in (1, 3, 4, 5, 6)]
    scene.add(message(7))
    scene.later(seconds=60)
    scene.deliver()
    assert "✅ *알림 7번*" in texts(fake)
    fake.mend()
    scene.until_delivered(ticks=200)
    assert texts(fake).count("✅ *알림 2번*") == 1


def test_a_message_whose_blocks_are_refused_is_sent_as_plain_text(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "ok:invalid_blocks", where="blocks")
    scene.add(message(1))
    scene.deliver()
    (posted,) = fake.messages
    assert posted.blocks == []
    assert "알림 1번" in posted.text


@pytest.mark.parametrize("count", [21, 200, 1000])
def test_after_an_outage_more_than_twenty_are_gathered_and_each_is_named(
    scene: Scene, fake: FakeSlack, count: int
) -> None:
    scene.add(*(message(n, f"✅ *알림 {n}번* {'가' * 200}") for n in range(1, count + 1)))
    scene.until_delivered()
    assert len(fake.messages) == {21: 1, 200: 1}.get(count) or len(fake.messages) < count / 100
    words = "".join(m.text for m in fake.messages)
    assert all(words.count(f"알림 {n}번 ") == 1 for n in range(1, count + 1))


def test_twenty_messages_are_sent_one_by_one(scene: Scene, fake: FakeSlack) -> None:
    scene.add(*(message(n) for n in range(1, 21)))
    scene.until_delivered()
    assert len(fake.messages) == 20


def test_messages_of_a_gathering_that_slack_refuses_are_sent_one_by_one(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "ok:invalid_blocks", times=0, where="밀린 알림")
    scene.add(*(message(n) for n in range(1, 31)))
    scene.until_delivered()
    assert sorted(texts(fake)) == sorted(f"✅ *알림 {n}번*" for n in range(1, 31))


def test_a_message_that_always_makes_slack_fail_does_not_spoil_a_gathering_for_ever(
    scene: Scene, fake: FakeSlack
) -> None:
    fake.fault(POST, "500", times=0, where="알림 7번")
    scene.add(*(message(n) for n in range(1, 31)))
    for _ in range(60):
        scene.deliver()
        scene.later(seconds=120)
    texts = "".join(m.text for m in fake.messages)
    assert [n for n in range(1, 31) if f"알림 {n}번" not in texts] == [7]


def test_a_late_message_says_when_the_thing_happened(scene: Scene, fake: FakeSlack) -> None:
    scene.add(message(1))
    scene.until_delivered()
    assert "늦은 알림" in fake.messages[0].words  # the fixed clock's messages are of another year
    assert "2026-11-02 09:00:01 KST" in fake.messages[0].words


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: f.tokens.clear(), ("invalid token", "SLACK_BOT_TOKEN")),
        (lambda f: f.member_of.clear(), ("not in channel", "/invite")),
        (lambda f: f.channels.pop("ai-reports"), ("unknown channel", "SLACK_CHANNEL")),
        (lambda f: f.scopes.discard("chat:write"), ("missing scope", "chat:write")),
        (lambda f: f.archived.add("C0000000004"), ("channel",)),
    ],
)
def test_a_check_says_in_words_what_is_wrong(scene: Scene, fake: FakeSlack, break_it: Any, words: Any) -> None:
    break_it(fake)
    with pytest.raises(ChannelFailed) as failed:
        scene.slack.check()
    assert all(word in failed.value.sentence for word in words), failed.value.sentence


def test_a_check_that_passes_says_where_the_test_message_went(scene: Scene, fake: FakeSlack) -> None:
    assert "#ai-reports (C0000000004)" in scene.slack.check()
    assert len(fake.messages) == 1


def test_the_token_is_in_no_message_and_no_error(scene: Scene, fake: FakeSlack) -> None:
    from saju_ops_tests.fakes.slack import TOKEN

    scene.add(message(1, f"실수로 들어간 {TOKEN}"))
    scene.until_delivered()
    assert TOKEN not in fake.words()
    assert "***" in fake.words()


def test_two_deliveries_at_once_send_nothing_twice(scene: Scene, fake: FakeSlack) -> None:
    import threading

    fake.fault(POST, "slow", times=0, seconds=0.05)
    scene.add(*(message(n) for n in range(1, 16)))
    threads = [threading.Thread(target=scene.deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scene.until_delivered()
    assert sorted(texts(fake)) == sorted(f"✅ *알림 {n}번*" for n in range(1, 16))


def test_a_delivery_leaves_the_rest_to_the_next_look_when_its_time_is_up(scene: Scene, fake: FakeSlack) -> None:
    fake.fault(POST, "slow", times=0, seconds=0.2)
    scene.add(*(message(n) for n in range(1, 21)))
    (report,) = scene.deliver(budget=0.7)
    assert 1 <= report.delivered <= 5
    assert report.left == 20 - report.delivered
    fake.mend()
    scene.until_delivered()
    assert len(fake.messages) == 20
