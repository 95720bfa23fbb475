"""`make screenshots`: the pictures of the documents, taken of the demo's real UI by Chromium.

    python -m saju_ops_tests.screenshots [--only NAME …]

Needs Debian's packages `chromium` and `fonts-noto-cjk`, and the extra `screenshots`. Makes a demo in a temporary
folder, starts the UI on it on a free port, and writes `docs/images/<name>.png`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from saju_ops.demo.run import HOME, run_demo, use_demo_settings
from saju_ops.demo.service import open_service
from saju_ops.errors import OperatorError
from saju_ops_tests.defs.dev_server import PROJECT, DevServer, until

IMAGES = PROJECT / "docs" / "images"
SIZE = {"width": 1440, "height": 900}
# Path in the UI, and a text that is there once the page has loaded what it shows.
PAGES = {
    "lineage": ("/asset-groups", "conversation_log_archive"),
    "archive": ("/assets/conversation_log_archive?view=overview", "Latest materialization"),
    "archive-partitions": ("/assets/conversation_log_archive?view=partitions", "2026"),
    "archive-checks": ("/assets/conversation_log_archive?view=checks", "Evaluation"),
    "jobs": ("/jobs", "purge_conversation_logs"),
    "automation": ("/automation", "log_cleanup"),
    "runs": ("/runs", "purge_conversation_logs"),
    "launchpad": ("/locations/saju_ops/jobs/purge_conversation_logs/playground", "Launch Run"),
}


def chromium() -> str:
    """Raises OperatorError."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise OperatorError("Chromium is not installed; on Debian: apt-get install chromium. No picture was taken.")
    return found


def take(url: str, names: list[str]) -> list[Path]:
    from playwright.sync_api import sync_playwright

    taken = []
    with sync_playwright() as playwright:
        # Root may not use Chromium's own sandbox; nothing but our UI is opened.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, timezone_id="Asia/Seoul", locale="en-US")
        for name in names:
            path, text = PAGES[name]
            page.goto(f"{url}{path}", wait_until="networkidle")
            _settled(page, text)
            target = IMAGES / f"{name}.png"
            page.screenshot(path=target)
            taken.append(target)
            print(target.relative_to(PROJECT), flush=True)
        browser.close()
    return taken


def _settled(page: Any, text: str) -> None:
    page.get_by_text(text).first.wait_for(timeout=30_000)
    for label in ("Skip tutorial", "Dismiss", "Got it"):
        button = page.get_by_role("button", name=label)
        if button.count():
            button.first.click()
    page.wait_for_timeout(1_500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PAGES, default=list(PAGES))
    options = parser.parse_args()
    chromium()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="saju_ops_pictures_") as folder:
        demo = Path(folder) / ".demo"
        run_demo(demo, echo=print)
        service = open_service(demo)
        assert service is not None
        use_demo_settings(service)
        with DevServer(service.folder / HOME, os.environ) as server:
            until(lambda: server.graphql("{ version }"), 30, "the UI")
            take(f"http://127.0.0.1:{server.port}", options.only)


if __name__ == "__main__":
    main()
