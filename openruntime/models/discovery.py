"""What models there are without anybody having configured one: in packages, behind a key in the environment, on Ollama's port."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from openruntime.contracts.ai import ModelSpec
from openruntime.models import installed, upstreams

log = logging.getLogger(__name__)

FRESH = 30.0  # seconds that what was found counts as it is
KEPT = 600.0  # seconds that what a server had counts while it does not answer: it may only be slow, or be started again
FIRST = 0.5  # seconds that the first who wants to know waits for the servers' first answers
OPENAI_MODEL = "gpt-5-mini"

Found = tuple[list[ModelSpec], dict[str, str]]  # and of what cannot be used: why


class Finds(Protocol):
    """What a repository needs of it."""

    def specs(self) -> Sequence[ModelSpec]:
        """In the order in which one of them is the default. Returns at once; the same object as long as nothing has changed."""

    def problems(self) -> Mapping[str, str]: ...

    def settled(self) -> bool:
        """Whether all that is to be looked at was, once. The first who asks waits a moment for it."""

    def look(self, older: float = FRESH) -> None:
        """Look again where what is known is older than so many seconds, and wait for it."""


class Discovery:
    """Packages are read at first need and after each installation; servers are asked by a thread, at most every `FRESH` seconds while
    somebody wants to know. `openai_model`: what to use of the server that `OPENAI_API_KEY` belongs to."""

    def __init__(self, environment: Mapping[str, str], *, openai_model: str | None = None) -> None:
        self._environment = {name: environment.get(name, "") for name in (upstreams.KEY, "OPENAI_BASE_URL", "OLLAMA_HOST")}
        self._openai_model = openai_model
        self._packages: Found | None = None
        self._surroundings: object = None
        self._servers: Found = [], {}
        self._answers: dict[str, tuple[float, list[ModelSpec]]] = {}  # of each server its last, and when
        self._first = threading.Event()
        self._patience = FIRST
        self._merged: tuple[Found, Found, Sequence[ModelSpec]] | None = None
        self._asked = self._looked = float("-inf")
        self._reading = threading.Lock()
        self._asking = threading.Lock()

    def specs(self) -> Sequence[ModelSpec]:
        packages = self._packages
        if packages is None:
            packages = self._read_packages()
        if time.monotonic() - self._asked > FRESH:
            self._asked = time.monotonic()
            threading.Thread(target=self.look, name="models", daemon=True).start()
        servers = self._servers
        if self._merged is None or self._merged[0] is not servers or self._merged[1] is not packages:
            self._merged = servers, packages, (*servers[0], *packages[0])
        return self._merged[2]

    def problems(self) -> Mapping[str, str]:
        packages = self._packages or self._read_packages()
        return self._servers[1] | packages[1]

    def look(self, older: float = FRESH) -> None:
        with self._asking:
            if time.monotonic() - self._looked <= older:
                return
            try:
                self._read_packages()
                asked = upstreams.configured(self._environment, self._openai_model or OPENAI_MODEL, self._openai_model is not None)
                configured, wrong = self._or_last("OPENAI_BASE_URL", asked)
                ollama, silent = self._or_last("OLLAMA_HOST", upstreams.ollama(self._environment))
                servers = [*configured, *ollama], wrong | silent
                if servers != self._servers:
                    self._servers = servers
            except Exception:
                log.exception("looking for models failed")  # in a thread of its own nobody else would hear of it
            self._looked = time.monotonic()
            self._first.set()

    def settled(self) -> bool:
        patience, self._patience = self._patience, 0.0  # who asks may be the event loop
        return self._first.wait(patience)

    def _or_last(self, server: str, found: Found) -> Found:
        """What a server has; where it does not answer, what it had, with the problem."""
        specs, problems = found
        if not problems:
            self._answers[server] = time.monotonic(), specs
            return found
        since, last = self._answers.get(server, (float("-inf"), []))
        if last and time.monotonic() - since <= KEPT:
            return last, {
                name: f"{problem}; until it answers again, what it had counts for {KEPT / 60:.0f} minutes" for name, problem in problems.items()
            }
        return specs, problems if self._environment[server] else {}  # nobody said that one should be there

    def _read_packages(self) -> Found:
        with self._reading:
            surroundings = installed.surroundings()
            if self._packages is None or surroundings != self._surroundings:
                carried, offered = installed.carried(), installed.offered()
                self._packages = carried[0] + offered[0], carried[1] | offered[1]
                self._surroundings = surroundings
            return self._packages
