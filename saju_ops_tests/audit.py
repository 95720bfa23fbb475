"""`make audit`: known weaknesses of the installed packages, and their licences.

Exit status: 0 nothing is known against them, or nothing could be asked, which the output says; 1 a weakness is known,
or a package that users install has a licence that asks more of them than ours.

pip-audit alone says "No known vulnerabilities found" where the index knows none of the packages, as a mirror without
PyPI's JSON interface does: what it skipped is counted here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from typing import Any

from packaging.requirements import Requirement

SECONDS = 600
# A copyleft licence that reaches the programs that use a package; LGPL and MPL reach changes of the package alone.
STRONG = re.compile(r"(?<![A-Za-z])(?:A?GPL|AFFERO|GENERAL PUBLIC)", re.IGNORECASE)
WEAK = re.compile(r"LGPL|LESSER|LIBRARY GENERAL", re.IGNORECASE)


def weaknesses() -> tuple[list[str], str]:
    """A line each, and how much could be asked."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--skip-editable", "--format=json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        found = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return [], f"NOT AUDITED: pip-audit could not ask its database ({type(error).__name__})."
    return judged(found)


def judged(found: Iterable[Mapping[str, Any]]) -> tuple[list[str], str]:
    asked = [each for each in found if "skip_reason" not in each]
    skipped = [each["name"] for each in found if "skip_reason" in each]
    known = [f"{e['name']} {e['version']}: {v['id']}, mended in {', '.join(v['fix_versions']) or 'no version'}"
             for e in asked for v in e["vulns"]]  # fmt: skip
    if not asked:
        return known, f"NOT AUDITED: the database could not be reached or knows none of {len(skipped)} packages."
    more = f"; NOT AUDITED: {', '.join(skipped)}" if skipped else ""
    return known, f"{len(asked)} packages were looked up{more}."


def licence(package: Distribution) -> str:
    """As the package says itself: its expression, else its classifiers, else the first line of its text."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    named = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    text = str(metadata.get("License") or "").strip()
    return "; ".join(named) or (text.splitlines()[0] if text else "UNKNOWN")


def needed(name: str = "saju-ops", seen: set[str] | None = None) -> Iterator[Distribution]:
    """What an installation without any extra has."""
    seen = set() if seen is None else seen
    for text in distribution(name).requires or []:
        wanted = Requirement(text)
        if wanted.name.lower() in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(wanted.name.lower())
        try:
            yield distribution(wanted.name)
        except PackageNotFoundError:
            continue
        yield from needed(wanted.name, seen)


def asks_more(text: str) -> bool:
    """If several licences may be chosen from, one that asks no more is enough."""
    return all(STRONG.search(part) and not WEAK.search(part) for part in re.split(r"\bOR\b|;", text))


def main() -> int:
    known, asked = weaknesses()
    print(f"Known weaknesses: {len(known)}. {asked}", *known, sep="\n  ")
    print("\nLicences:")
    for package in sorted(distributions(), key=lambda d: d.name.lower()):
        print(f"  {package.name} {package.version}: {licence(package)}")
    wrong = [f"{p.name}: {licence(p)}" for p in needed() if asks_more(licence(p))]
    print("\nLicences of what users install that ask more of them than Apache-2.0:", *(wrong or ["none"]), sep="\n  ")
    return 1 if known or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
