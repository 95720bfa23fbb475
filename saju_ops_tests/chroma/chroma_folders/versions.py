"""Makes the folders of old Chroma versions that lie beside this file, each by that version, as PyPI has it.

    python -m saju_ops_tests.chroma.chroma_folders.versions SCRATCH [VERSION …]

Takes some minutes a version, and needs Python 3.11. The ids in the folders are new each time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = ("0.4.15", "0.4.24", "0.5.0", "0.5.5", "0.5.23", "0.6.3", "1.0.15", "1.1.1")
# Written before numpy 2, which they take nevertheless.
BEFORE_NUMPY_2 = VERSIONS[:4]


def packed(version: str) -> Path:
    return HERE / f"chromadb_{version}.tar.xz"


def install(version: str, environment: Path) -> Path:
    """Returns the environment's interpreter."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        older = ["numpy<2"] if version in BEFORE_NUMPY_2 else []
        asked = [f"chromadb=={version}", "setuptools<80", *older]
        subprocess.run([python, "-m", "pip", "install", "-q", "--prefer-binary", *asked], check=True)
    return python


def make(version: str, scratch: Path) -> None:
    folder = scratch / f"folder_{version}"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([install(version, scratch / version), HERE / "make.py", folder], check=True)
    with tarfile.open(packed(version), "w:xz") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    for each in sys.argv[2:] or VERSIONS:
        make(each, Path(sys.argv[1]))
