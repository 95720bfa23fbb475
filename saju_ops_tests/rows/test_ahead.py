"""pyarrow reads ahead in a thread of its own; none may be left at work when a damaged file ends the process."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from saju_ops.rows.csvfile import BOM, header

NAMES = ["log_id", "content"]
ROWS = 400_000
# Without the wait for pyarrow's thread one process of five was aborted (31 of 150, two cores).
PROCESSES = 15
VERIFY = f"""
import sys
from saju_ops.rows.csvfile import Packing
from saju_ops.rows.table import Column
from saju_ops.archive.verify import read_back
from saju_ops.errors import ProofFailed

columns = [Column(name, "text", "text", framed=True) for name in {NAMES}]
def main():
    try:
        read_back(lambda: open(sys.argv[1], "rb"), Packing(), columns, ["log_id"])
    except ProofFailed as error:
        print(error, flush=True)
        sys.exit(3)

main()
"""


@pytest.mark.long
def test_a_process_that_found_a_damaged_archive_ends_by_itself(tmp_path: Path) -> None:
    archive = tmp_path / "archive.csv"
    rows = [f'"{i}","{"y" * 60}"\n'.encode() for i in range(ROWS)]
    rows[9_000] = b'"a cell is missing"\n'
    archive.write_bytes(BOM + header(NAMES) + b"".join(rows))
    command = [sys.executable, "-c", VERIFY, str(archive)]
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda _: subprocess.run(command, capture_output=True, check=False), range(PROCESSES)))
    assert [(process.returncode, process.stderr) for process in ended] == [(3, b"")] * PROCESSES
