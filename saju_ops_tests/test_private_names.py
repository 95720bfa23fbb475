"""Names that Dagster and Chroma don't promise to keep: each in one module, there today, missed only by its feature."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import saju_ops
from saju_ops.chroma.engine import TRIED, Api
from saju_ops.errors import OperatorError

PACKAGE = Path(saju_ops.__file__).parent


def private_imports() -> dict[str, set[str]]:
    """Private modules of others, by the file that imports them."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            for name in names:
                ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saju_ops")
                if not ours and any(p.startswith("_") and p != "__future__" for p in name.split(".")):
                    found.setdefault(str(path.relative_to(PACKAGE)), set()).add(name)
    return found


@pytest.mark.long
def test_dagsters_private_names_are_imported_by_one_module() -> None:
    assert private_imports() == {"defs/interrupts.py": {"dagster._utils.interrupts"}}


def test_dagsters_private_names_are_there() -> None:
    from saju_ops.defs import interrupts

    assert interrupts.KNOWN


@pytest.mark.long
def test_without_them_everything_loads_and_a_cancel_ends_a_run_at_once() -> None:
    program = """
import logging, sys
logging.basicConfig()
sys.modules["dagster._utils.interrupts"] = None
try:
    import dagster
except ImportError:
    del sys.modules["dagster._utils.interrupts"]
    import dagster
    sys.modules["dagster._utils.interrupts"] = None
import saju_ops.definitions
from saju_ops.defs.interrupts import cancellable
with cancellable() as should_stop:
    print("why:", should_stop())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "why: None"), done.stderr
    assert "has no functions to capture interrupts (1.13.27 has)" in done.stderr


def test_dagster_names_states_as_the_watch_expects() -> None:
    """The watch compares the states of checks, schedules, ticks and freshness by their names."""
    from dagster._core.definitions.freshness import FreshnessState
    from dagster._core.scheduler.instigation import InstigatorStatus, InstigatorType, TickStatus
    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

    expected: dict[type, set[str]] = {
        FreshnessState: {"FAIL", "UNKNOWN"},
        InstigatorStatus: {"STOPPED"},
        InstigatorType: {"SCHEDULE", "SENSOR"},
        TickStatus: {"STARTED", "FAILURE"},
        AssetCheckExecutionRecordStatus: {"PLANNED", "FAILED"},
    }
    for kind, names in expected.items():
        assert names <= {state.value for state in kind}  # type: ignore[attr-defined]


def test_chromas_private_names_are_there() -> None:
    from chromadb.api.fastapi import FastAPI

    assert [name for name in Api.PRIVATE.values() if not hasattr(FastAPI, name)] == []


def test_a_chroma_that_lacks_one_says_which_version_has_it() -> None:
    api = Api(SimpleNamespace(_server=SimpleNamespace(_count=lambda id: 3, get_version=lambda: "9.0")))
    assert (api.count("id"), api.get_version()) == (3, "9.0")
    with pytest.raises(OperatorError, match=rf"has no SimpleNamespace\._get, .* Install chromadb {TRIED[-1]}"):
        api.get("id")


def test_a_chroma_without_its_own_interface_says_so() -> None:
    with pytest.raises(OperatorError, match=r"has no SimpleNamespace\._server"):
        Api(SimpleNamespace())
