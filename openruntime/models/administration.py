"""The repository as JSON: what `/ai/models` answers, and what commands do without a server. Everything here may take a while: not for the loop."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from openruntime.contracts.ai import PRODUCTION, ModelSpec
from openruntime.contracts.errors import InvalidParameter, Unavailable
from openruntime.models.repository import ModelRepository
from openruntime.models.sources import Addition
from openruntime.models.weights import reads


class Administration:
    """The same methods as `client.models.Models`, over a repository at hand."""

    def __init__(self, repository: ModelRepository) -> None:
        self.repository = repository

    def all(self) -> list[dict[str, Any]]:
        """Every version: the repository's, then what was found."""
        self.repository.look()
        used, named = self._used(), self._named()
        return [self._shown(spec, used, named) for spec in self.repository.list()]

    def problems(self) -> Sequence[str]:
        """Of entries, packages and servers that cannot be used: why."""
        return self.repository.problems()

    def get(self, name: str) -> dict[str, Any]:
        return self._answer(self.repository.resolve(name))

    def add(self, **given: Any) -> dict[str, Any]:
        """The fields of `Addition`. Raises `InvalidParameter` naming the field, and what `ModelRepository.add` does."""
        try:
            wanted = msgspec.convert(given, Addition)
        except msgspec.ValidationError as error:
            found = re.search(r"`\$\.(\w+)|unknown field `(\w+)`", str(error))
            field = (found[1] or found[2]) if found else None
            raise InvalidParameter(f"`{field}`: {error}" if field else str(error), field=field) from None
        return self._answer(self.repository.add(wanted))

    def promote(self, name: str, alias: str | None = None) -> dict[str, Any]:
        return self._answer(self.repository.promote(name, alias))

    def use(self, name: str) -> dict[str, Any]:
        return self.promote(name)

    def roll_back(self, alias: str = PRODUCTION["chat"]) -> dict[str, Any]:
        return self._answer(self.repository.roll_back(alias))

    def history(self, alias: str) -> dict[str, Any]:
        told = self.repository.history(alias)
        moves = [{"model": move.id, "how": move.how, "time": _time(move.time)} for move in told.log]
        return {"alias": alias, "model": told.current, "before": list(told.before), "history": moves}

    def remove(self, name: str, *, force: bool = False) -> None:
        self.repository.remove(name, force=force)

    def remove_alias(self, alias: str) -> None:
        self.repository.remove_alias(alias)

    def check(self, name: str) -> dict[str, Any]:
        """The model; when anything is wrong, unavailable for that reason."""
        spec = self.repository.resolve(name)
        try:
            self.repository.check(spec.id)
        except (Unavailable, InvalidParameter) as error:
            return self._answer(spec) | {"status": "unavailable", "reason": error.message}
        return self._answer(spec)

    def _answer(self, spec: ModelSpec) -> dict[str, Any]:
        return self._shown(spec, self._used(), self._named())

    def _used(self) -> set[str]:
        used: set[str] = set()
        for kind in PRODUCTION:
            try:
                used.add(self.repository.default(kind).id)
            except Unavailable:
                continue
        return used

    def _named(self) -> Mapping[str, list[str]]:
        named: dict[str, list[str]] = {}
        for alias, target in self.repository.aliases().items():
            named.setdefault(target, []).append(alias)
        return named

    def _shown(self, spec: ModelSpec, used: set[str], named: Mapping[str, list[str]]) -> dict[str, Any]:
        reason = self.repository.reason(spec)
        return {
            "id": spec.id, "name": spec.name, "version": spec.version, "kind": spec.kind, "adapter": spec.adapter,
            "status": "ready" if reason is None else "unavailable", "reason": reason, "default": spec.id in used,
            "current": spec.name in named.get(spec.id, ()), "aliases": sorted(alias for alias in named.get(spec.id, ()) if alias != spec.name),
            "origin": spec.origin, "source": spec.source, "upstream": spec.upstream or None, "digest": spec.digest or None, "size": spec.size or None,
            "license": spec.license or None, "context_length": reads(spec), "parallel": spec.parallel, "options": spec.options,
            "created_at": _time(spec.created) if spec.created else None,
        }  # fmt: skip


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
