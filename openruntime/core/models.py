"""What of a server concerns models, wired together."""

from collections.abc import Callable

from openruntime.ai.backend import ModelBackend
from openruntime.ai.hosting import Hosting
from openruntime.core.config import Settings
from openruntime.models.repository import ModelRepository


def open_backend(
    settings: Settings, models: ModelRepository, *, machine: int, available: Callable[[], int], accepts: Callable[[str], bool]
) -> ModelBackend:
    """`machine`: bytes of memory; `available` of them now. `accepts(device)`: whether it takes new work."""
    memory = share(settings.model_memory, machine)
    hosting = Hosting(idle=settings.model_idle, memory=memory, available=available, total=machine, verify=models.verify)
    models.in_use = hosting.uses
    return ModelBackend(models, hosting, shared=settings.store not in ("memory", "sqlite"), accepts=accepts)


def share(wanted: float, total: int) -> int:
    """A share of `total` bytes, or a size."""
    return int(total * wanted) if wanted <= 1 else min(total or int(wanted), int(wanted))
