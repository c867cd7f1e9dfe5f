"""What every engine's process does, whatever it hosts: says that it is ready, hears its gateway, and ends when that has."""

import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from openruntime.ai.engines.process import LONGEST_FRAME, Ready
from openruntime.runtimes.channel import FrameReader, frame


class Host:
    """The gateway's end of an engine's process: the `settings` it gave. Its frames are heard in a thread, so that its end is, too."""

    def __init__(self, on_frame: Callable[[bytes], None] | None = None) -> None:
        # a terminal and a service manager signal the whole group; an engine ends when its channel closes
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.dup2(2, 1)  # what a library prints
        self.settings: dict[str, Any] = msgspec.json.decode(sys.argv[2])
        self._channel = socket.socket(fileno=int(sys.argv[1]))
        self._on_frame = on_frame
        threading.Thread(target=self._listen, name="gateway", daemon=True).start()

    def say(self, message: Any) -> None:
        self._channel.sendall(frame(message))

    def ready(self, **about: Any) -> None:
        scale = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        self.say(Ready(about, memory, time.monotonic() - self.settings["begun"]))

    def refuse(self, error: str) -> NoReturn:
        """Say why there is nothing to host, and end."""
        self.say(Ready(error=error))
        self.end()

    def end(self) -> NoReturn:
        shutil.rmtree(self.settings["folder"], ignore_errors=True)
        sys.stderr.flush()
        os._exit(0)  # no destructor of a library that still computes

    def _listen(self) -> None:
        reader = FrameReader(LONGEST_FRAME)
        try:
            while data := self._channel.recv(1 << 18):
                for body in reader.feed(data):
                    if self._on_frame is not None:
                        self._on_frame(bytes(body))
        finally:
            self.end()
