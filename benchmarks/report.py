"""The table at the end, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Line:
    what: str
    figure: str
    peer: str = ""
    ratio: float | None = None
    wanted: float | None = None
    # Whether a larger ratio is the better one.
    more: bool = True
    note: str = ""

    @property
    def met(self) -> str:
        if self.ratio is None or self.wanted is None:
            return self.note
        good = self.ratio >= self.wanted if self.more else self.ratio <= self.wanted
        return "met" if good else "NOT MET"

    @property
    def cells(self) -> list[str]:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        sign = "≥" if self.more else "≤"
        wanted = "" if self.wanted is None else f"{sign} {self.wanted:g}"
        return [self.what, self.figure, self.peer, ratio, wanted, self.met]


def show(lines: list[Line]) -> None:
    table = [["what", "figure", "peer", "ratio", "wanted", ""], *(line.cells for line in lines)]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def machine() -> dict[str, Any]:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in cpus if "model name" in x), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    libraries = ("sqlalchemy", "pymysql", "pyarrow", "numpy", "pandas", "dagster")
    pt = subprocess.run(["pt-archiver", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "processor": model, "cores": os.cpu_count(), "memory_bytes": memory,
        "python": platform.python_version(), "kernel": platform.release(), "pt-archiver": pt.split()[-1],
        **{x: version(x) for x in libraries},
    }  # fmt: skip


def save(lines: list[Line], measured: dict[str, Any], about: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{about['engine']}.json"
    content = {"about": about, "lines": [{**asdict(x), "met": x.met} for x in lines], "measured": measured}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    return path
