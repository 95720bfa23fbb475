"""The trigger as a process, while Dagster is down: which calls are let in, and how the others are answered.

A call that passes is answered with 503 here, because there is no Dagster.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from saju_ops_tests.trigger.scene import BEARER, TOKEN, InThread, Trigger, error_of, free_port, serve_trigger

METHODS = {"/run-cleanup": "GET, POST", "/run-cleanup/x": "GET", "/jobs/x": "GET, POST", "/healthz": "GET, HEAD"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trigger]:
    with Trigger(tmp_path_factory.mktemp("trigger"), TRIGGER_JOBS="purge_expired_jobs") as trigger:
        yield trigger
        assert trigger.process.poll() is None
        assert TOKEN not in trigger.said()
        assert "Traceback" not in trigger.said()


@pytest.fixture
def trigger(shared: Trigger) -> Trigger:
    return shared


# --- the token --------------------------------------------------------------------------------------------


def test_with_the_token_a_call_passes_and_dagster_being_down_is_503_with_retry_after(trigger: Trigger) -> None:
    for method in ("GET", "POST"):
        for path in ("/run-cleanup", "/jobs/purge_expired_jobs"):
            answer = trigger.call(method, path)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "30"
            assert "can't be reached" in error_of(answer)
            assert "Call again in 30 seconds. What was started before continues" in error_of(answer)
    for path in ("/run-cleanup/some-id", "/jobs/purge_expired_jobs/some-id"):
        assert trigger.call("GET", path).status_code == 503


WRONG = {
    "none": [],
    "wrong": [b"Bearer " + b"x" * 39],
    "a part of it": [b"Bearer " + TOKEN[:-1].encode()],
    "more than it": [b"Bearer " + TOKEN.encode() + b"x"],
    "upper case": [b"Bearer " + TOKEN.upper().encode()],
    "empty": [b"Bearer "],
    "no scheme": [TOKEN.encode()],
    "basic": [b"Basic " + TOKEN.encode()],
    "korean": [b"Bearer " + "비밀번호".encode() * 4],
    "latin": [b"Bearer \xff\xfe" + TOKEN.encode()],
    "twice, one right": [b"Bearer " + TOKEN.encode(), b"Bearer wrong"],
    "twice, both right": [b"Bearer " + TOKEN.encode(), b"Bearer " + TOKEN.encode()],
    "a list": [b"Bearer " + TOKEN.encode() + b", Bearer x"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_token_is_401_and_is_not_repeated(tmp_path: Path, trigger: Trigger, name: str) -> None:
    lines = b"".join(b"Authorization: " + value + b"\r\n" for value in WRONG[name])
    status, answer = trigger.raw(b"POST /run-cleanup HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + lines + b"\r\n")
    assert status in (401, 429), answer
    if status == 401:
        assert b"www-authenticate: Bearer" in answer
        assert b"Authorization: Bearer <CLEANUP_TRIGGER_TOKEN> is missing or wrong." in answer
    assert TOKEN.encode() not in answer


def test_the_scheme_may_be_written_in_any_case(trigger: Trigger) -> None:
    assert trigger.call("POST", "/run-cleanup", {"Authorization": f"bearer  {TOKEN}"}).status_code == 503


PATHS = ("/run-cleanup", "/nowhere", "/jobs/x", "/", "/healthz/", "/healthz/x", "/healthzz")


def test_without_the_token_nobody_learns_what_there_is() -> None:
    with InThread() as trigger:
        answers = {trigger.call("GET", path, {}).text for path in PATHS}
        answers |= {trigger.call(method, "/run-cleanup", {}).text for method in ("POST", "DELETE", "OPTIONS")}
    assert len(answers) == 1


@pytest.mark.long
def test_guessing_is_slowed_down_and_does_not_keep_out_who_knows_the_token(tmp_path: Path) -> None:
    with Trigger(tmp_path / "t") as trigger:
        began = time.monotonic()
        answers = [trigger.call("POST", "/run-cleanup", {"Authorization": f"Bearer {n}"}) for n in range(40)]
        # One more is looked at every two seconds, at whichever call of the flood that falls.
        again = int((time.monotonic() - began) / 2)
        assert {a.status_code for a in answers[:30]} == {401}
        looked_at = [a.status_code for a in answers].count(401)
        assert 30 <= looked_at <= 30 + again
        refused = [a for a in answers if a.status_code == 429]
        assert len(refused) == 40 - looked_at > 0
        for answer in refused:
            assert 1 <= int(answer.headers["retry-after"]) <= 2
            assert "Too many wrong tokens" in error_of(answer)
        assert trigger.call("POST", "/run-cleanup").status_code == 503
        assert trigger.said().count(" 401 ") == looked_at, "a flood must not fill the disk"


def test_the_token_in_the_address_is_refused_unless_it_is_switched_on(trigger: Trigger) -> None:
    answer = trigger.call("GET", f"/run-cleanup?token={TOKEN}", {})
    assert answer.status_code in (401, 429)
    if answer.status_code == 401:
        assert "TRIGGER_TOKEN_IN_URL is off" in error_of(answer)


def test_switched_on_it_counts_in_the_address_and_is_never_logged(tmp_path: Path) -> None:
    with Trigger(tmp_path / "t", TRIGGER_TOKEN_IN_URL="true") as trigger:
        for path, status in {
            f"/run-cleanup?token={TOKEN}": 503,
            f"/run-cleanup?a=b&token={TOKEN}": 503,
            f"/run-cleanup/{TOKEN}?token={TOKEN}": 503,
            f"/{TOKEN}?token={TOKEN}": 404,
            f"/run-cleanup?token={TOKEN}&token={TOKEN}": 401,
            "/run-cleanup?token=": 401,
            "/run-cleanup?token=%ff%fe": 401,
            "/run-cleanup": 401,
        }.items():
            assert trigger.call("GET", path, {}).status_code == status, path
        # A header that is there decides.
        assert trigger.call("GET", f"/run-cleanup?token={TOKEN}", {"Authorization": "Bearer x"}).status_code == 401
        assert trigger.call("POST", "/run-cleanup").status_code == 503
        trigger.raw(f"GET /run-cleanup?token={TOKEN} HTTP/9\r\n\r\n".encode())
        assert trigger.stop() == 0
        assert TOKEN not in trigger.said()
        assert "GET /run-cleanup 503" in trigger.said()


# --- size, slowness, rate ---------------------------------------------------------------------------------


def test_a_small_body_is_ignored(trigger: Trigger) -> None:
    assert trigger.call("POST", "/run-cleanup", content=b'{"dry_run": true}').status_code == 503


def test_a_huge_body_is_413_however_its_size_is_announced(trigger: Trigger) -> None:
    answer = trigger.call("POST", "/run-cleanup", content=b"x" * 30_000_000)
    assert answer.status_code == 413
    assert "larger than 16384 bytes" in error_of(answer)
    chunked = trigger.call("POST", "/run-cleanup", content=(b"x" * 65536 for _ in range(200)))
    assert chunked.status_code == 413
    assert trigger.raw(
        b"POST /run-cleanup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + TOKEN.encode()
        + b"\r\nContent-Length: 99999999999999999999\r\n\r\nx"
    )[0] == 413  # fmt: skip


@pytest.mark.long
def test_slow_bodies_and_slow_heads_are_given_up_and_hold_up_nobody(trigger: Trigger) -> None:
    head = f"POST /run-cleanup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    found: dict[str, tuple[int, bytes]] = {}

    def send(name: str, request: str) -> None:
        found[name] = trigger.raw(request.encode(), timeout=20)

    slow = {"body": head + "Content-Length: 100\r\n\r\nx", "head": head, "nothing": ""}
    threads = [threading.Thread(target=send, args=item) for item in slow.items()]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert trigger.call("POST", "/run-cleanup").status_code == 503
    assert time.monotonic() - began < 2
    for thread in threads:
        thread.join(timeout=20)
    assert found["body"][0] == 408
    assert b"did not arrive within 5 seconds" in found["body"][1]
    assert found["head"] == found["nothing"] == (0, b"")


def test_too_many_calls_are_429_with_retry_after() -> None:
    with InThread(TRIGGER_CALLS_PER_MINUTE="3", DAGSTER_WEBSERVER_URL="http://127.0.0.1:1") as trigger:
        answers = [trigger.call("GET", "/run-cleanup/x") for _ in range(5)]
        assert [a.status_code for a in answers] == [503, 503, 503, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert "Too many calls" in error_of(answers[-1])
        assert httpx.get(f"{trigger.url}/healthz").status_code == 200


# --- methods, addresses, broken requests ------------------------------------------------------------------


@pytest.mark.parametrize("path", METHODS)
def test_other_methods_are_405_and_head_starts_nothing(trigger: Trigger, path: str) -> None:
    allowed = set(METHODS[path].split(", "))
    for method in {"HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
        answer = trigger.call(method, path)
        assert answer.status_code == 405, method
        assert set(answer.headers["allow"].split(", ")) == allowed
        if method != "HEAD":
            assert "can't be called so" in error_of(answer)


@pytest.mark.parametrize(
    "path",
    ["/", "/run-cleanup/", "//run-cleanup", "/RUN-CLEANUP", "/run-cleanup/a/b", "/x/../run-cleanup", "/jobs",
     "/jobs/", "/run-cleanup%00", "/run-cleanup%0a", "/run-cleanup;x", "http://x/run-cleanup", "/healthz/",
     "//healthz/../run-cleanup", "/healthz%2f..%2frun-cleanup", "/run-cleanup/%2e%2e%2fx", "/run-cleanup/비밀",
     "/jobs/purge_expired_jobs/%22%7d", "/run-cleanup/" + "x" * 81, "/" + "x" * 70000],
    ids=range(20),
)  # fmt: skip
def test_no_other_address_is_answered(trigger: Trigger, path: str) -> None:
    target = path.encode()
    request = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    status, answer = trigger.raw(request)
    assert status in (400, 404), answer
    assert list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["error"]


@pytest.mark.parametrize(
    "request_",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /run-cleanup HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
     b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
     b"GET /run-cleanup HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer " + TOKEN.encode() + b"\r\n\r\n",
     b"POST /run-cleanup HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
     b"POST /run-cleanup HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
     b"POST /run-cleanup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"],
    ids=range(8),
)  # fmt: skip
def test_a_broken_request_is_400_as_json(trigger: Trigger, request_: bytes) -> None:
    status, answer = trigger.raw(request_, timeout=15)
    assert status in (400, 501), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_nothing_can_be_hidden_behind_a_first_request(trigger: Trigger) -> None:
    """One call, one connection: what a proxy took for a body is never a second call."""
    second = f"POST /run-cleanup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"
    for headers in ("", "Content-Length: 0\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"):
        body = "0\r\n\r\n" if "chunked" in headers else ""
        _, answer = trigger.raw(f"POST /healthz HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}{second}".encode())
        assert answer.count(b"HTTP/1.1 ") == 1, answer
        assert b"503" not in answer


def test_it_says_that_it_lives_to_everybody_and_nothing_else(trigger: Trigger) -> None:
    answer = httpx.get(f"{trigger.url}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    head = httpx.head(f"{trigger.url}/healthz")
    assert (head.status_code, head.content) == (200, b"")


def test_every_answer_is_json_uncached_and_reveals_nothing_of_the_server(trigger: Trigger) -> None:
    for answer in (
        httpx.get(f"{trigger.url}/healthz"), trigger.call("GET", "/run-cleanup"), trigger.call("GET", "/nowhere"),
        trigger.call("PUT", "/run-cleanup"), trigger.call("POST", "/run-cleanup", content=b"x" * 20_000),
    ):  # fmt: skip
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["connection"] == "close"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_a_job_that_is_not_allowed_is_403_and_says_which_are(trigger: Trigger) -> None:
    answer = trigger.call("POST", "/jobs/restore_database_dump")
    assert answer.status_code == 403
    assert "TRIGGER_JOBS allows purge_expired_jobs." in error_of(answer)


# --- starting and stopping --------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "CLEANUP_TRIGGER_TOKEN is not set, so anybody could start a purge."),
        ({"CLEANUP_TRIGGER_TOKEN": "  "}, "CLEANUP_TRIGGER_TOKEN is not set"),
        ({"CLEANUP_TRIGGER_TOKEN": TOKEN[:31]}, "CLEANUP_TRIGGER_TOKEN holds a value that is not shown"),
        ({"CLEANUP_TRIGGER_TOKEN": TOKEN + " x"}, "it may hold at least 32 visible ASCII characters"),
        ({"CLEANUP_TRIGGER_TOKEN": "비밀번호" * 10}, "other characters than ASCII"),
        ({"CLEANUP_TRIGGER_TOKEN": TOKEN, "PORT": "http"}, "PORT holds 'http'; it may hold a port"),
        ({"CLEANUP_TRIGGER_TOKEN": TOKEN, "TRIGGER_HOST": "192.0.2.1"}, "192.0.2.1:8080 can't be listened on"),
        ({"CLEANUP_TRIGGER_TOKEN": TOKEN, "DAGSTER_WEBSERVER_URL": f"http://u:{TOKEN}@h"}, "DAGSTER_WEBSERVER_URL"),
    ],
)
def test_it_does_not_start_with_a_wrong_setting_and_says_why(settings: dict[str, str], sentence: str) -> None:
    said = serve_trigger(**settings)
    assert said.returncode == 1
    assert sentence in said.stderr
    assert said.stderr.strip().endswith(".")
    assert "Traceback" not in said.stderr
    assert TOKEN[:31] not in said.stdout + said.stderr


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = serve_trigger("--port", str(port), CLEANUP_TRIGGER_TOKEN=TOKEN)
    assert said.returncode == 1
    assert f"127.0.0.1:{port} can't be listened on (Address already in use)" in said.stderr


@pytest.mark.parametrize("how", [(), ("--with-dagster",)])
def test_the_port_of_dagster_is_refused_at_the_start(how: tuple[str, ...]) -> None:
    """PORT, which the host sets, is Dagster's 3000 on some hosts: each call would be answered 503, for ever."""
    port = str(free_port())
    said = serve_trigger(*how, CLEANUP_TRIGGER_TOKEN=TOKEN, PORT=port, DAGSTER_WEBSERVER_URL=f"http://localhost:{port}")
    assert said.returncode == 1
    assert f"The trigger can't have the port {port}: DAGSTER_WEBSERVER_URL" in said.stderr
    assert "Traceback" not in said.stderr
    assert not Path(".dagster_home").exists()


def test_it_listens_where_the_host_says_and_warns_when_others_can_reach_it(tmp_path: Path) -> None:
    port = free_port()
    with Trigger(tmp_path / "t", PORT=str(port), TRIGGER_PORT="", TRIGGER_HOST="0.0.0.0") as trigger:
        assert trigger.port == port
        assert "put a proxy with TLS in front" in trigger.said()
        assert trigger.stop() == 0


def test_it_listens_on_loopback_by_default_and_stops_within_seconds_of_a_signal(trigger: Trigger) -> None:
    assert trigger.url.startswith("http://127.0.0.1:")
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    for address in addresses:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((address, trigger.port), timeout=2).close()


def test_the_token_is_not_in_the_process_list(trigger: Trigger) -> None:
    assert TOKEN.encode() not in Path(f"/proc/{trigger.process.pid}/cmdline").read_bytes()
    assert BEARER["Authorization"].endswith(TOKEN)
