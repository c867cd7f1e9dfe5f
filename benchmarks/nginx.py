"""A real nginx with `deploy/nginx.conf`, its names, addresses and paths exchanged for those of a test."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import which

from benchmarks.servers import free_port

CONFIGURATION = Path(__file__).parents[1] / "deploy/nginx.conf"
NAME = "compute.example.com"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def program() -> str | None:
    """Where nginx is, if it is installed; Debian's stands beside what only root has in its path."""
    return which("nginx") or which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


def configuration(folder: Path, port: int, gateways: Sequence[int]) -> str:
    """The shipped one, at `port` on 127.0.0.1, for gateways at these ports, keeping its files in `folder`."""
    text = CONFIGURATION.read_text()
    server = re.findall(r"^ +server 127\.0\.0\.1:\d+(.*;)\n", text, re.MULTILINE)[0]
    first, *others = re.findall(r"^ +server 127\.0\.0\.1:.*\n", text, re.MULTILINE)
    for line in others:
        text = text.replace(line, "")
    text = text.replace(first, "".join(f"        server 127.0.0.1:{gateway}{server}\n" for gateway in gateways))
    text = text.replace("listen 80", f"listen 127.0.0.1:{port}").replace(f"server_name {NAME};", f"server_name {NAME} 127.0.0.1 localhost;")
    text = text.replace("/run/", f"{folder}/").replace("/var/log/nginx/", f"{folder}/").replace("worker_processes auto;", "worker_processes 2;")
    kept = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in _TEMPORARY)
    return text.replace("http {\n", f"http {{\n{kept}", 1)


@contextlib.contextmanager
def running(folder: Path, gateways: Sequence[int]) -> Iterator[int]:
    """nginx before the gateways at these ports; its own port. Raises `RuntimeError` when it does not start."""
    found, port = program(), free_port()
    if found is None:
        raise RuntimeError("nginx is not installed (Debian: apt-get install --no-install-recommends nginx)")
    file = folder / "nginx.conf"
    file.write_text(configuration(folder, port, gateways))
    command = [found, "-p", str(folder), "-c", str(file), "-g", "daemon off;"]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    if tested.returncode:
        raise RuntimeError(tested.stderr)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not (folder / "nginx.pid").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "error.log").read_text())
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(10)
