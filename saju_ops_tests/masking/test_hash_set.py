"""The set of hashes holds what was added and nothing else, in the same memory however many they are."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saju_ops.errors import OperatorError
from saju_ops.masking import hash_set
from saju_ops.masking.hash_set import HashSet, hashed

# Few, so that they meet; and the ends.
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 300).map(lambda n: n << 55), st.just((1 << 64) - 1))
ADDED = st.lists(st.tuples(st.lists(NUMBERS, max_size=40), st.booleans()), max_size=12)


def numbers(some: list[int]) -> Any:
    return np.array(some, np.uint64)


@pytest.mark.long
@given(ADDED, st.lists(NUMBERS, max_size=60))
@settings(deadline=None, max_examples=150)
def test_it_holds_what_was_added_and_nothing_else(added: list[tuple[list[int], bool]], asked: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"GATHERED": 16, "PAGE": 4, "ASKED": 5, "PIECES": 3}.items():
            patch.setattr(hash_set, name, value)
        held, there = HashSet("things"), set[int]()
        for some, look in added:
            held.add(numbers(some))
            there.update(some)
            if look:
                assert held.holds(numbers(asked)).tolist() == [n in there for n in asked]
        every = [*asked, *there]
        assert held.holds(numbers(every)).tolist() == [n in there for n in every]
        assert [np.uint64(n) in held for n in every] == [n in there for n in every]
        held.close()


def test_many_lie_in_one_file_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_set, "GATHERED", 3000)
    held = HashSet("things")
    texts = [f"값 {n}" for n in range(50_000)]
    for start in range(0, len(texts), 700):
        held.add(hashed(texts[start : start + 900], b"key"))
    assert held.holds(hashed(texts, b"key")).all()
    assert not held.holds(hashed((f"{t}!" for t in texts), b"key")).any()
    assert not held.holds(hashed(texts, b"another key")).any()
    (bounds,) = held._runs
    everything = held._read(0, int(bounds[-1]))
    # The newest are in memory yet.
    assert len(held._held) < 3000
    assert len({*everything.tolist(), *held._held.tolist()}) == 50_000
    # Once each.
    assert (np.diff(everything.astype(object)) > 0).all()
    assert (held._first_of_page == everything[:: hash_set.PAGE]).all()
    held.close()


def test_a_full_temporary_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def fileno(self) -> int:
            return 0

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hash_set, "GATHERED", 10)
    monkeypatch.setattr(hash_set.tempfile, "TemporaryFile", lambda **_: Full())
    message = (
        r"^Hashes of things can't be kept in the temporary folder \S+ \(TMPDIR\): No space left on device\. It needs"
    )
    with pytest.raises(OperatorError, match=message):
        HashSet("things").add(numbers(list(range(20))))


PEAK = """
import sys
import numpy as np
from saju_ops.masking.hash_set import HashSet
random, held = np.random.default_rng(1), HashSet("things")
for _ in range(int(sys.argv[1])):
    held.add(random.integers(0, 1 << 64, 10_000, dtype=np.uint64))
for _ in range(20):
    assert not held.holds(random.integers(0, 1 << 64, 10_000, dtype=np.uint64)).any()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.long
def test_it_takes_the_same_memory_for_many_as_for_few() -> None:
    """500,000 and 6,000,000, which would be 48 MB."""
    command = [sys.executable, "-c", PEAK]
    few, many = (int(subprocess.check_output([*command, str(n)])) >> 10 for n in (50, 600))
    assert many < 100
    assert many - few < 15
