"""The budgets that no linter knows: sizes, names, what `contracts` may import, and nothing of one machine in the tree.

`python -m tools.budgets [ROOT]` prints one line a violation and exits 1 when there is any.
"""

import ast
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

LINES = 400
METHODS = 15
NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc"})
FOUNDATION = frozenset({"msgspec", "pydantic"})

# Character classes, so that this file does not match itself.
MACHINE = re.compile(r"(?<![\w.])/(?:wor[k]|roo[t]|hom[e]/\w+|opt/(?:pyp[i]|wheel[s]))(?:/|\b)")
PUBLIC_HOSTS = frozenset({"pypi.org", "files.pythonhosted.org", "deb.debian.org", "127.0.0.1", "localhost"})


def tracked(root: Path) -> list[Path]:
    """The files that belong to the project: tracked by git, or new and not ignored; every file where there is no git."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"], capture_output=True, check=False)
    if listed.returncode != 0:
        return sorted(path for path in root.rglob("*") if path.is_file())
    return sorted(path for name in set(os.fsdecode(listed.stdout).split("\0")) if name and (path := root / name).is_file())


def sizes(path: Path, source: str) -> Iterator[str]:
    """Files and classes over their budget."""
    count = len(source.splitlines())
    if count > LINES:
        yield f"{path}: {count} lines; a file over {LINES} is two things"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        public = {
            member.name for member in node.body if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and not member.name.startswith("_")
        }
        if len(public) > METHODS:
            yield f"{path}:{node.lineno}: class {node.name} has {len(public)} public methods; one over {METHODS} is two things"


def names(path: Path) -> Iterator[str]:
    """Modules and packages whose name says nothing."""
    for part in [*path.parts[:-1], path.stem]:
        if part in NAMES:
            yield f"{path}: nothing is called `{part}`; name it after what it does"


def imports(path: Path, source: str) -> Iterator[str]:
    """What the import contracts cannot express: `contracts` stands on almost nothing, and nobody imports `openruntime` itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        elif isinstance(node, ast.ImportFrom):
            yield f"{path}:{node.lineno}: relative import; write the whole name"
            continue
        else:
            continue
        for module in modules:
            if module == "openruntime" and path.parts[:1] == ("openruntime",):
                yield f"{path}:{node.lineno}: `openruntime` itself is for users; import the module that defines it"
            top = module.partition(".")[0]
            if path.parts[:2] == ("openruntime", "contracts") and top not in {*FOUNDATION, "openruntime", *sys.stdlib_module_names}:
                yield f"{path}:{node.lineno}: contracts import only the standard library, pydantic and msgspec, not `{top}`"


def registry_hosts() -> frozenset[str]:
    """Hosts that this machine's pip is set up to ask, the public one apart."""
    values = [value for name, value in os.environ.items() if name.startswith("PIP_")]
    for file in [Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"]:
        parser = configparser.RawConfigParser()
        if file.is_file():
            parser.read(file)
            values += [value for section in parser.sections() for value in parser[section].values()]
    hosts = {urlsplit(word).hostname or "" for value in values for word in value.split() if "://" in word}
    return frozenset(hosts - PUBLIC_HOSTS - {""})


def machine(path: Path, text: str, hosts: frozenset[str]) -> Iterator[str]:
    """Paths and registry hosts of the machine this was written on."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := MACHINE.search(line):
            yield f"{path}:{number}: `{found.group()}` is a path of one machine"
        for host in hosts:
            if host in line:
                yield f"{path}:{number}: a package registry of one machine"


def violations(root: Path) -> Iterator[str]:
    """Every violation under `root`, a line each, with its place."""
    hosts = registry_hosts()
    for file in tracked(root):
        path = file.relative_to(root)
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        yield from machine(path, text, hosts)
        if path.suffix == ".py":
            yield from names(path)
            yield from sizes(path, text)
            yield from imports(path, text)


def main() -> None:
    found = list(violations(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]))
    print("\n".join(found) or "Budgets kept: sizes, names, foundation, nothing of one machine.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
