"""`/docs` in a real browser: every operation is shown, and nothing comes from another host."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=20000", "--enable-logging=stderr",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (tools/debian.sh chromium)")
def test_every_operation_is_shown_and_nothing_comes_from_elsewhere(server: Any, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom", f"{server.url}/docs"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    shown = re.findall(r'opblock-summary-method">(\w+)<.*?data-path="([^"]+)"', ended.stdout, re.DOTALL)
    document = httpx.get(f"{server.url}/openapi.json").json()
    assert sorted(shown) == sorted((method.upper(), path) for path, methods in document["paths"].items() for method in methods)
    assert "OAS 3.1" in re.sub(r"<[^>]+>", "", ended.stdout)
    assert "Content Security Policy" not in ended.stderr, ended.stderr  # what asks another host, or runs code of the page's own
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    asked = {event["url"] for event in events if event.get("initiator") == server.url and "url" in event}
    assert {f"{server.url}/openapi.json", f"{server.url}/docs/swagger-ui-bundle.js"} <= asked  # so the log is one that tells
    assert [url for url in asked if not url.startswith(server.url + "/")] == []
