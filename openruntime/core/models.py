"""What of a server concerns models, wired together."""

import asyncio
import logging
import time
from collections.abc import Callable

from openruntime.ai.backend import ModelBackend
from openruntime.ai.hosting import Hosting
from openruntime.contracts.errors import OpenRuntimeError
from openruntime.contracts.peers import Peers
from openruntime.core.config import Settings
from openruntime.models.repository import ModelRepository

log = logging.getLogger(__name__)

GONE = 30  # seconds that no server on a shared store has had a model, until those who wait for it are told so


def open_backend(
    settings: Settings, models: ModelRepository, *, machine: int, available: Callable[[], int], accepts: Callable[[str], bool]
) -> ModelBackend:
    """`machine`: bytes of memory; `available` of them now. `accepts(device)`: whether it takes new work."""
    memory = share(settings.model_memory, machine)
    hosting = Hosting(idle=settings.model_idle, memory=memory, available=available, total=machine, verify=models.verify)
    models.in_use = hosting.uses
    return ModelBackend(models, hosting, shared=settings.store not in ("memory", "sqlite"), accepts=accepts)


async def compare(backend: ModelBackend, peers: Peers, wake: Callable[[], None]) -> None:
    """Tell the other servers which models are here, and hear which are there: a task whose model none has is not left waiting for ever."""
    began = time.monotonic()
    while True:
        try:
            offered = await peers.offer(await asyncio.to_thread(backend.get_capabilities), GONE)
            if time.monotonic() - began > GONE:  # as long as the others have to say so
                backend.offered = offered
                wake()
        except OpenRuntimeError as error:
            log.debug("which models other servers have could not be asked: %s", error)
            backend.offered, began = None, time.monotonic()
        await asyncio.sleep(GONE / 6)


def share(wanted: float, total: int) -> int:
    """A share of `total` bytes, or a size."""
    return int(total * wanted) if wanted <= 1 else min(total or int(wanted), int(wanted))
