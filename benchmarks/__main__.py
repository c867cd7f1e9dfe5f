"""`python -m benchmarks`: every work for some rounds, servers in turn; a table on the screen and JSON under benchmarks/results/."""

import argparse
import shutil
from pathlib import Path

from benchmarks.durable import work_c
from benchmarks.footprint import install, memory, start
from benchmarks.report import Notebook
from benchmarks.works import work_a, work_b

ROOT = Path(__file__).parents[1]
WORKS = ("A", "B", "C", "start", "memory", "install")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("works", nargs="*", choices=[*WORKS, []], help="which works; all unless named")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each measurement of work A")
    parser.add_argument("--requests", type=int, default=40, help="of work B, each round")
    parser.add_argument("--tasks", type=int, default=10_000, help="of work C, each round")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/latest.json")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build/bench", help="where the servers keep their data: a real disk")
    arguments = parser.parse_args()
    works = arguments.works or WORKS
    scratch: Path = arguments.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    notebook = Notebook()
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}", flush=True)
        if "A" in works:
            work_a(notebook, scratch, arguments.seconds)
        if "B" in works:
            work_b(notebook, scratch, arguments.requests)
        if "C" in works:
            work_c(notebook, scratch, arguments.tasks)
        if "start" in works:
            start(notebook, scratch)
        if "memory" in works:
            memory(notebook, scratch)
        shutil.rmtree(scratch)
        scratch.mkdir()
        notebook.save(arguments.out)
    if "install" in works:
        install(notebook)
    notebook.save(arguments.out)
    notebook.show()


if __name__ == "__main__":
    main()
