"""What a program writes is read ahead in a thread: whole, in its order, bounded, and ended when nobody wants it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest

from saju_ops.dumps import read_ahead as dump_ahead
from saju_ops.dumps.programs import Output, Program
from saju_ops.dumps.read_ahead import AHEAD, CHUNK, ReadAhead

SECONDS = 10


def python(text: str) -> Program:
    # Whatever signals the process that runs the tests ignores or blocks: a child inherits that.
    heeds = "import signal as s; s.signal(s.SIGTERM, s.SIG_DFL); s.pthread_sigmask(s.SIG_SETMASK, [])\n"
    return Program([sys.executable, "-c", heeds + text])


def reading() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "reading ahead"]


def eventually(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_so()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not reading()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_was_written_comes_in_its_order_and_whole_whoever_of_the_two_is_slower() -> None:
    text = (
        "import sys, time\n"
        "for i in range(60):\n"
        "    sys.stdout.buffer.write(bytes([i]) * (i * 20_011))\n"
        "    i % 20 or (sys.stdout.flush(), time.sleep(0.05))\n"
    )
    said = sha256()
    with Output(python(text)) as output:
        for number, piece in enumerate(iter(output.read, b"")):
            assert 0 < len(piece) <= CHUNK
            said.update(piece)
            time.sleep(0.01 if number < 10 else 0)
        output.finish()
    assert said.hexdigest() == sha256(b"".join(bytes([i]) * (i * 20_011) for i in range(60))).hexdigest()


def test_the_end_stays_the_end() -> None:
    with Output(python("print('x')")) as output:
        assert output.read() == b"x\n"
        assert [output.read(), output.read()] == [b"", b""]
        assert output.ready(0)
        output.finish()


def test_a_program_is_not_kept_waiting_by_who_does_not_read_yet() -> None:
    with Output(python(f"import os; os.write(1, b'x' * {8 * CHUNK})")) as output:
        assert eventually(lambda: output._process.poll() == 0)
        assert sum(map(len, iter(output.read, b""))) == 8 * CHUNK


def test_no_more_than_is_bounded_is_read_ahead() -> None:
    text = "import os\nfor _ in range(64): os.write(1, b'x' * (1 << 20)); os.write(2, b'.')"
    with Output(python(text)) as output:
        written = lambda: os.fstat(output._stderr.fileno()).st_size  # noqa: E731
        assert eventually(lambda: written() >= AHEAD)
        time.sleep(0.2)
        # In the pieces that wait, and in the pipe.
        assert written() <= AHEAD + 1
        assert sum(map(len, iter(output.read, b""))) == 64 * CHUNK


def test_ready_waits_no_longer_than_it_may_and_loses_nothing(pipe: tuple[int, int]) -> None:
    ahead = ReadAhead(pipe[0])
    began = time.monotonic()
    assert not ahead.ready(-1)
    assert not ahead.ready(0.05)
    assert 0.05 <= time.monotonic() - began < SECONDS
    os.write(pipe[1], b"one")
    assert ahead.ready(SECONDS)
    assert ahead.ready(0)
    assert ahead.read() == b"one"
    assert not ahead.ready(0)
    ahead.close()


def test_what_nobody_wants_ends_at_once_also_when_a_grandchild_holds_the_pipe() -> None:
    endless = "import os\nwhile True: os.write(1, b'x' * 4096)"
    text = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {endless!r}]); time.sleep(100)"
    silent = "import subprocess, time; print(subprocess.Popen(['sleep', '{}']).pid, flush=True); time.sleep(100)"
    began = time.monotonic()
    with Output(python(text)) as output:
        assert output.read()
    with Output(python(silent.format(SECONDS * 2))) as output:
        grandchild = int(output.read())
    assert time.monotonic() - began < SECONDS
    subprocess.run(["kill", str(grandchild)], check=True)


def test_an_error_in_the_thread_is_raised_in_its_reader(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError("the pipe broke")

    os.write(pipe[1], b"x")
    with monkeypatch.context() as patched:
        patched.setattr(dump_ahead, "_readable", broken)
        ahead = ReadAhead(pipe[0])
        for _ in range(2):
            with pytest.raises(OSError, match="the pipe broke"):
                ahead.read()
    ahead.close()
    ahead.close()


def test_a_program_is_ended_when_nothing_can_be_read_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = Program.start

    def noted(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        started.append(start(*args, **kwargs))  # type: ignore[arg-type]
        return started[-1]

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Program, "start", noted)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="new thread"):
        Output(python("import time; time.sleep(100)"))
    assert started[0].poll() is not None


def test_descriptors_above_a_thousand_are_read_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this user may not have so many files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with Output(python("print('x')")) as output:
            assert output._process.stdout is not None
            assert output._process.stdout.fileno() > 1023
            assert b"".join(iter(output.read, b"")) == b"x\n"
            output.finish()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
