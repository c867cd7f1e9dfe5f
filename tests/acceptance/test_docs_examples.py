"""The examples of the README, the tutorial and the how-tos for operators, run as a reader would: in order, in one folder, on a real server.

A fenced block of bash or python runs; a block of `text` right after it is what it must print (`...` stands for anything). Blocks of
`sh` are for the reader's own terminal (installing, starting the server).
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.servers import Server

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md", "docs/tutorial/first-task.md", "docs/howto/backup-and-restore.md", "docs/howto/write-a-kernel.md",
    "docs/howto/verify-and-tune-a-kernel.md", "docs/howto/get-a-model.md",
    "docs/howto/use-from-an-assistant.md", "docs/howto/use-the-openai-client.md", "docs/howto/work-with-agents.md",
)  # fmt: skip
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFAULT = "127.0.0.1:8000"


class Example(NamedTuple):
    language: str
    text: str
    prints: str | None


def examples(markdown: str) -> list[Example]:
    blocks = [(found.group(1), found.group(2), found) for found in BLOCK.finditer(markdown)]
    found = []
    for number, (language, text, match) in enumerate(blocks):
        if language not in ("bash", "python"):
            continue
        follows = number + 1 < len(blocks) and blocks[number + 1][0] == "text" and not markdown[match.end() : blocks[number + 1][2].start()].strip()
        found.append(Example(language, text, blocks[number + 1][1] if follows else None))
    return found


def matches(printed: str, expected: str) -> bool:
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def run(example: Example, server: Server, folder: Path) -> str:
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "160",
        "OPENRUNTIME_DATA_DIR": str(server.data_dir),
    }  # fmt: skip
    text = example.text.replace(DEFAULT, f"127.0.0.1:{server.port}")
    command = ["bash", "-euo", "pipefail", "-c", text] if example.language == "bash" else [sys.executable, "-W", "error", "-c", text]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, f"{example.text}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_the_page_work(page: str, server: Server, tmp_path: Path) -> None:
    found = examples((ROOT / page).read_text())
    assert len(found) >= 2
    for example in found:
        printed = run(example, server, tmp_path)
        if example.prints is not None:
            assert matches(printed, example.prints), f"{example.text}\nprinted\n{printed}\nnot\n{example.prints}"


def test_every_example_that_promises_an_output_is_checked() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert len(re.findall(r"^```text$", text, re.MULTILINE)) == sum(example.prints is not None for example in examples(text))


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [("a\nb c", "a\n... c", True), ("a", "b", False), ('{"x":[1]}', '{..."x":[1]...}', True), ('{"x":[2]}', '{..."x":[1]...}', False)],
)
def test_dots_stand_for_anything(printed: str, expected: str, same: bool) -> None:
    assert matches(printed, expected) is same
