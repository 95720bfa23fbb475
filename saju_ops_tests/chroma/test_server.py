"""A Chroma server that wants a token or TLS, or is older than ours: it is used, or the setting at fault is named."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from saju_ops.chroma.probe import Server, probe
from saju_ops.chroma.restore import restore_snapshot
from saju_ops.chroma.server import connect
from saju_ops.chroma.snapshot import Snapshot, Source, take_snapshot
from saju_ops.chroma.usage import usage
from saju_ops.chroma.worker_client import ask
from saju_ops.cli.status_report import report
from saju_ops.errors import OperatorError, Refused
from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops.storage.local import LocalStorage
from saju_ops.wiring import restore_target, server_at, source_of
from saju_ops_tests.chroma.scene import assert_same, held_by, held_in, make_folder, serving
from saju_ops_tests.fakes.chroma_door import ChromaDoor
from saju_ops_tests.fakes.mail import certificate

pytestmark = pytest.mark.usefixtures("own_scratch")
KST = ZoneInfo("Asia/Seoul")
AT = datetime(2026, 9, 30, 18, 30, tzinfo=UTC)
TOKEN = "t0ken-of-the-chatbots-vector-store"
VERSION, IDENTITY = "/api/v2/version", "/api/v2/auth/identity"


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server with something in it."""
    folder = make_folder(tmp_path_factory.mktemp("made") / "chroma_db", {"saju_knowledge": 60}, sync=20)
    with serving(folder) as port:
        yield port


@pytest.fixture
def pem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, unless SSL_CERT_FILE names it."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    return certificate(tmp_path)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "backups")


def settings_for(monkeypatch: pytest.MonkeyPatch, port: int, **more: str) -> Any:
    given = {"CHROMA_HOST": "127.0.0.1", "CHROMA_PORT": str(port), **more}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def take(storage: LocalStorage, source: Source) -> Snapshot:
    return take_snapshot(storage, source, zone=KST, clock=lambda: AT)


def status_line(name: str = "CHROMA_HOST") -> str:
    """The one that says whether it can be used."""
    return next(line for line in report()[0] if line.split()[1:2] == [name] and line[:4] in ("ok  ", "FAIL"))


# --- a token, TLS ------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("header", ["Authorization", "X-Chroma-Token"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_server_behind_a_token_and_tls_is_snapshotted_measured_restored_to_and_named_usable(
    chroma: int, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pem: Path, header: str,
    tls: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with ChromaDoor(chroma, token=TOKEN, header=header, pem=pem if tls else None) as door:
        settings = settings_for(monkeypatch, door.port, CHROMA_AUTH_TOKEN=TOKEN, CHROMA_SSL=str(tls).lower())
        snapshot = take(storage, source_of(settings))
        assert snapshot.records == 60
        assert usage(source_of(settings), storage, now=AT).documents == 60
        assert status_line().startswith("ok  ")
        with pytest.raises(Refused, match="has collections of these names already: empty_one, saju_knowledge"):
            restore(storage, restore_target(settings, None, "127.0.0.1", door.port))
        assert door.refused == 0
    with serving(tmp_path / "other") as other, ChromaDoor(other, token=TOKEN, header=header) as door:
        settings = settings_for(monkeypatch, door.port, CHROMA_AUTH_TOKEN=TOKEN, CHROMA_SSL="false")
        restore(storage, restore_target(settings, None, None, 8000))
        assert_same(held_by(connect("127.0.0.1", other)), held_by(connect("127.0.0.1", chroma)))
    assert TOKEN not in json.dumps(snapshot.manifest.__dict__, default=str) + repr(source_of(settings))


def restore(storage: LocalStorage, target: Source) -> Any:
    return restore_snapshot(storage, target, dry_run=False, zone=KST, clock=lambda: AT)


@pytest.mark.long
@pytest.mark.parametrize(
    ("token", "sentence"),
    [(None, "asks for a token; set CHROMA_AUTH_TOKEN"), ("wrong-token", "refuses the token of CHROMA_AUTH_TOKEN")],
)
def test_a_server_that_refuses_the_token_is_said_to(
    chroma: int, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, token: str | None, sentence: str
) -> None:
    with ChromaDoor(chroma, token=TOKEN) as door:
        settings = settings_for(monkeypatch, door.port, **({"CHROMA_AUTH_TOKEN": token} if token else {}))
        source = source_of(settings)
        for look in (lambda: take(storage, source), lambda: usage(source, storage, now=AT)):
            with pytest.raises(OperatorError) as said:
                look()
            assert f"The Chroma server at 127.0.0.1:{door.port} {sentence} (HTTP 401)." in str(said.value)
            assert "Nothing was read or written." in str(said.value)
            assert token is None or token not in "".join(traceback.format_exception(said.value))
        assert sentence in status_line()
        assert status_line().startswith("FAIL")


def test_a_server_that_asks_for_a_token_only_where_it_gives_something_is_seen_by_status_too(
    chroma: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of 0.5 and 0.6 do."""
    with ChromaDoor(chroma, instead={IDENTITY: (403, b"{}")}) as door:
        settings_for(monkeypatch, door.port)
        assert "asks for a token; set CHROMA_AUTH_TOKEN (HTTP 403)" in status_line()


@pytest.mark.long
def test_a_setting_that_does_not_fit_the_servers_tls_is_named(
    chroma: int, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, pem: Path
) -> None:
    with ChromaDoor(chroma, pem=pem) as behind_tls:
        for ssl, port, sentence in (
            ("false", behind_tls.port, "set CHROMA_SSL=true if it wants TLS"),
            ("true", chroma, "speaks no TLS"),
            ("true", behind_tls.port, "authority's file in SSL_CERT_FILE"),
        ):
            source = source_of(settings_for(monkeypatch, port, CHROMA_SSL=ssl))
            with pytest.raises(OperatorError, match=sentence):
                take(storage, source)
            assert sentence in status_line()
    assert list(storage.names("")) == []


def test_the_token_is_sent_to_the_configured_server_alone(
    chroma: int, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(monkeypatch, chroma, CHROMA_AUTH_TOKEN=TOKEN, CHROMA_SSL="true")
    assert restore_target(settings, None, "127.0.0.1", 1).token == TOKEN
    assert restore_target(settings, None, "localhost", 1) == Source(host="localhost", port=1)
    monkeypatch.delenv("CHROMA_HOST")
    assert server_at(load_settings(), "localhost", 1) == Source(host="localhost", port=1, tls=True, token=TOKEN)


def test_the_token_does_not_follow_a_redirection(chroma: int) -> None:
    with ChromaDoor(chroma) as other, ChromaDoor(chroma, moved_to=f"http://127.0.0.1:{other.port}") as door:
        with pytest.raises(OperatorError, match=r"sends its callers elsewhere \(HTTP 302\)"):
            probe(Server("127.0.0.1", door.port, token=TOKEN))
        assert door.seen
        assert other.seen == []


@pytest.mark.parametrize("token", ["two words", "열쇠", "with\nnewline"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("CHROMA_AUTH_TOKEN", token)
    with pytest.raises(SettingsError, match="CHROMA_AUTH_TOKEN holds a value that is not shown") as said:
        load_settings()
    assert token not in str(said.value)


# --- older servers -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_server_that_can_not_list_its_databases_is_read_in_the_usual_one(
    chroma: int, storage: LocalStorage, tmp_path: Path
) -> None:
    """As those of Chroma 0.5 answer."""
    instead = {
        f"/api/v2/tenants/default_tenant/databases?limit=100&offset={offset}": (405, b'{"detail":"Method Not Allowed"}')
        for offset in (0, 100)
    }
    said: list[str] = []
    with ChromaDoor(chroma, instead=instead) as door:
        source = Source(host="127.0.0.1", port=door.port)
        snapshot = take_snapshot(storage, source, zone=KST, clock=lambda: AT, progress=said.append)
        assert usage(source, storage, now=AT).documents == 60
        shown = held_by(connect("127.0.0.1", chroma))
    assert any("can't list its databases: only default_database is in the snapshot" in text for text in said)
    assert snapshot.copied["lists_databases"] is False
    out = tmp_path / "out"
    restore(storage, Source(folder=out))
    assert_same(held_in(out), shown)


def test_a_server_that_fails_on_the_way_is_said_with_what_it_was_asked_for(chroma: int, tmp_path: Path) -> None:
    path = "/api/v2/tenants/default_tenant/databases?limit=100&offset=0"
    with ChromaDoor(chroma, instead={path: (500, b"no JSON")}) as door:
        with pytest.raises(OperatorError) as said:
            ask("usage", tmp_path, **Source(host="127.0.0.1", port=door.port).server)
    asked = "GET /api/v2/tenants/default_tenant/databases with HTTP 500"
    assert f"the server answered {asked}" in str(said.value)


def test_a_server_without_the_api_of_today_is_refused_in_a_sentence(chroma: int, storage: LocalStorage) -> None:
    """As those before 0.5.16 answer."""
    instead = {VERSION: (404, b"{}"), "/api/v1/version": (200, b'"0.4.24"')}
    with ChromaDoor(chroma, instead=instead) as door:
        with pytest.raises(OperatorError, match=r"runs Chroma 0\.4\.24, which is too old.*CHROMA_DB_PATH"):
            take(storage, Source(host="127.0.0.1", port=door.port))


@pytest.mark.long
def test_nothing_is_restored_into_a_server_before_1_0(chroma: int, storage: LocalStorage) -> None:
    take(storage, Source(host="127.0.0.1", port=chroma))
    with ChromaDoor(chroma, instead={VERSION: (200, b'"0.6.3"')}) as door:
        with pytest.raises(Refused, match=r"runs Chroma 0\.6\.3, .* 1\.0 or newer\. Nothing was written\."):
            restore(storage, Source(host="127.0.0.1", port=door.port))


def test_what_is_no_chroma_server_is_said_to_be_none(storage: LocalStorage) -> None:
    with ChromaDoor(1, instead={VERSION: (404, b""), "/api/v1/version": (404, b"")}) as door:
        with pytest.raises(OperatorError, match="is no Chroma server; look at CHROMA_HOST and CHROMA_PORT"):
            take(storage, Source(host="127.0.0.1", port=door.port))
