"""Killed at any moment, no birth is lost and none is there in neither form; the next run does the rest."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from cryptography.fernet import Fernet, MultiFernet

from saju_ops_tests.schema.birth_data.scene import BORN, NEW_KEY, OLD_KEY, BirthScene, token

WORKER = """
import sys
import sqlalchemy as sa
from zoneinfo import ZoneInfo
from saju_ops.schema.birth_data.encrypt import EncryptRun, Options
from saju_ops.schema.birth_data.keys import parse_keys
from saju_ops.schema.birth_data.rows import open_sessions

with open_sessions(sa.make_url(sys.argv[1]), "user_sessions", ZoneInfo("UTC")) as store:
    print("ready", flush=True)
    EncryptRun(store, parse_keys(sys.argv[2]), Options(dry_run=False, chunk_rows=7), lambda: None).run()
"""
ROWS = 300


def killed_after(scene: BirthScene, seconds: float) -> bool:
    """False where the run was over before."""
    url = scene.url.render_as_string(hide_password=False)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, url, f"{NEW_KEY},{OLD_KEY}"], stdout=subprocess.PIPE, env=os.environ
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    time.sleep(seconds)
    over = worker.poll() is not None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    return not over


def each_birth_is_there(scene: BirthScene) -> None:
    """In the clear, or in a token that says it; by nothing but Fernet."""
    either = MultiFernet([Fernet(NEW_KEY), Fernet(OLD_KEY)])
    for clear, hidden in scene.run("SELECT birth_datetime, birth_datetime_encrypted FROM user_sessions"):
        said = str(clear) if clear is not None else json.loads(either.decrypt(hidden.encode()))["birth_datetime"]
        assert said[:19].replace("T", " ") == str(BORN)


def kill(scene: BirthScene, times: int, seed: int) -> None:
    rng = random.Random(seed)
    scene.add(*(f"clear-{n}" for n in range(ROWS)))
    old = token({"birth_datetime": BORN.isoformat()}, OLD_KEY)
    scene.add(*(f"old-{n}" for n in range(30)), birth_datetime=None, birth_datetime_encrypted=old)
    for _ in range(times):
        killed = killed_after(scene, rng.uniform(0, 0.6))
        each_birth_is_there(scene)
        if not killed:
            break
    scene.encrypt(NEW_KEY, OLD_KEY)
    assert scene.look(NEW_KEY).per_key == {1: ROWS + 30}
    each_birth_is_there(scene)


@pytest.mark.long
def test_a_run_that_is_killed_loses_no_birth(database_url: str) -> None:
    kill(BirthScene(database_url), 2, 1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_is_killed_again_and_again_loses_no_birth(seed: int, database_url: str) -> None:
    kill(BirthScene(database_url), 6, seed)
