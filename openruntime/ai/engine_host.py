"""What every engine's process does, whatever it hosts: says that it is ready, and ends when its gateway has."""

import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from openruntime.ai.engine import Ready
from openruntime.runtimes.channel import frame


class Host:
    """`settings` as the gateway gave them, `channel` to it. `on_frame` hears what it says there, in a thread of its own."""

    def __init__(self) -> None:
        # a terminal and a service manager signal the whole group; an engine ends when its channel closes
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.dup2(2, 1)
        self.channel = socket.socket(fileno=int(sys.argv[1]))
        self.settings: dict[str, Any] = msgspec.json.decode(sys.argv[2])

    def watch(self) -> None:
        """End this process when the gateway is gone, however that came; from a thread, while the engine works."""
        threading.Thread(target=self._watch, name="gateway", daemon=True).start()

    def _watch(self) -> None:
        while self.channel.recv(4096, socket.MSG_PEEK):
            time.sleep(0.05)  # it said something that the other thread is to read
        self.end()

    def ready(self, **about: Any) -> None:
        scale = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        self.channel.sendall(frame(Ready(about, memory, time.monotonic() - self.settings["begun"])))

    def refuse(self, code: str, error: str) -> None:
        """Say why there is nothing to host, and end."""
        self.channel.sendall(frame(Ready(code=code, error=error)))
        self.end()

    def end(self) -> None:
        shutil.rmtree(self.settings["folder"], ignore_errors=True)
        sys.stderr.flush()
        os._exit(0)


def serve(host: Host, each: Callable[[bytes], None]) -> None:
    raise NotImplementedError
