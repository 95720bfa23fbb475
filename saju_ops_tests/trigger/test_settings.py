"""The trigger's settings: what is refused, and that the token is in no sentence."""

from __future__ import annotations

import pytest

from saju_ops.settings.load import load_settings
from saju_ops.settings.settings import SettingsError
from saju_ops_tests.trigger.scene import TOKEN


def test_without_settings_it_would_listen_on_loopback_for_a_dagster_on_loopback() -> None:
    settings = load_settings()
    assert settings.cleanup_trigger_token is None
    assert settings.trigger_jobs == ()
    assert (settings.trigger_host, settings.trigger_port) == ("127.0.0.1", None)
    assert settings.dagster_webserver_url == "http://127.0.0.1:3000"
    assert not settings.trigger_token_in_url


def test_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGER_JOBS", " purge_expired_jobs, ,verify_backups,")
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", "https://dagster.example.com:8443/dagster/")
    monkeypatch.setenv("CLEANUP_TRIGGER_TOKEN", "!" * 32)
    settings = load_settings()
    assert settings.trigger_jobs == ("purge_expired_jobs", "verify_backups")
    assert settings.dagster_webserver_url == "https://dagster.example.com:8443/dagster"
    assert "!!!!" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRIGGER_JOBS", "purge expired jobs"),
        ("TRIGGER_JOBS", "../graphql"),
        ("TRIGGER_PORT", "65536"),
        ("TRIGGER_PORT", "-1"),
        ("TRIGGER_PORT", "http"),
        ("TRIGGER_CALLS_PER_MINUTE", "0"),
        ("TRIGGER_TOKEN_IN_URL", "perhaps"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{name} holds {value!r} (")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLEANUP_TRIGGER_TOKEN", TOKEN[:31]),
        ("CLEANUP_TRIGGER_TOKEN", f"{TOKEN} {TOKEN}"),
        ("CLEANUP_TRIGGER_TOKEN", f"{TOKEN}\n"),
        ("DAGSTER_WEBSERVER_URL", f"http://user:{TOKEN}@127.0.0.1:3000"),
        ("DAGSTER_WEBSERVER_URL", f"http://127.0.0.1:3000/?token={TOKEN}"),
        ("DAGSTER_WEBSERVER_URL", f"ftp://{TOKEN}"),
        ("DAGSTER_WEBSERVER_URL", f"http://127.0.0.1:99999/{TOKEN}"),
        ("DAGSTER_WEBSERVER_URL", f"http://[{TOKEN}"),
    ],
)
def test_a_secret_is_not_in_the_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"{name} holds a value that is not shown")
    assert TOKEN[:31] not in str(refused.value)
