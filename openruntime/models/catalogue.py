"""Models and operations under one name space: what a call by a model's name means."""

import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from openruntime.contracts.ai import ANSWER, REQUIRES, Models, ModelSpec
from openruntime.contracts.errors import InvalidParameter, ModelNotFound, UnknownOperation, nearest
from openruntime.contracts.interfaces import Catalogue
from openruntime.contracts.payload import Spec
from openruntime.contracts.records import LOCAL, Call, Estimate, Program, Task
from openruntime.models.requests import embedding_schema, generation, generation_schema, sees, texts
from openruntime.models.weights import reads

REMEMBERED = 4096  # names
UNSEEN = 60.0  # seconds that the answers of a model are kept whose weights may be changed unseen
LONGEST_ANSWER = 1 << 24  # bytes: an upper bound, for those who take a model's answer as an array


class ModelCatalogue(Catalogue):
    """Implements `Catalogue`. Operations and kernels go before models of the same name; `NAME:VERSION` is always a model."""

    def __init__(self, others: Catalogue, models: Models) -> None:
        self._others = others
        self._models = models
        self._tenants: dict[str, ModelCatalogue] = {LOCAL.tenant: self}
        self._met: set[str] = set()  # names that meant models, so that operations are looked up first without a loss
        self._programs: dict[str, tuple[ModelSpec, Program]] = {}

    def of(self, tenant: str) -> "ModelCatalogue":
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = ModelCatalogue(self._others.of(tenant), self._models)
        return found

    def names(self) -> Sequence[str]:
        names = list(self._others.names())
        return [*names, *sorted({spec.name for spec in self._models.list()}.difference(names))]

    def describe(self, name: str) -> dict[str, Any]:
        spec = self._model(name)
        return self._known(name, self._others.describe) if spec is None else describe(spec)

    def first_array(self, name: str) -> str:
        if self._model(name) is not None:
            raise InvalidParameter(f"{name} is a model, and has no array parameter for an .npy body; send JSON")
        found: str = self._known(name, self._others.first_array)
        return found

    def bind(self, name: str, parameters: Mapping[str, Any], before: Call | None = None) -> Call:
        if before is not None:
            if before.requires.startswith(REQUIRES):  # what the name meant then
                return self._call(self._models.resolve(before.requires.removeprefix(REQUIRES)), name, parameters)
            return self._others.bind(name, parameters, before)
        if name not in self._met:
            try:
                return self._others.bind(name, parameters)
            except UnknownOperation as error:
                if self._model(name) is None:
                    raise self._unknown(name, error) from None
        spec = self._model(name)
        return self._others.bind(name, parameters) if spec is None else self._call(spec, name, parameters)

    def has(self, name: str) -> bool:
        return self._others.has(name) or self._model(name) is not None

    def _model(self, name: str) -> ModelSpec | None:
        """The model that `name` means; None where it means something else, or nothing."""
        if self._others.has(name):
            return None
        try:
            spec = self._models.resolve(name)
        except ModelNotFound:
            return None
        if len(self._met) >= REMEMBERED:
            self._met.clear()
        self._met.add(name)
        return spec

    def _known(self, name: str, ask: Any) -> Any:
        try:
            return ask(name)
        except UnknownOperation as error:
            raise self._unknown(name, error) from None

    def _unknown(self, name: str, error: UnknownOperation) -> UnknownOperation:
        """The error; where nothing has the name at all, with the models among those that are like it."""
        if self._others.has(name):
            return error
        known = {*self._others.names(), *self._models.aliases(), *(spec.name for spec in self._models.list())}
        return UnknownOperation(f"there is no operation {name!r:.100}{nearest(name, known)}", field=error.field)

    def _call(self, spec: ModelSpec, name: str, parameters: Mapping[str, Any]) -> Call:
        found: dict[str, Any]
        if spec.kind == "embedding":
            found, same = {"input": texts(name, parameters)}, True
        else:
            request = generation(name, parameters, images=sees(spec))
            found, same = msgspec.to_builtins(request), request.deterministic
        outputs = {ANSWER: Spec("uint8", (LONGEST_ANSWER,), False)}
        return Call(spec.name, number(spec), found, outputs, Estimate(), same, "", 0, (), self._program(spec))

    def _program(self, spec: ModelSpec) -> Program:
        """Whose source tells versions apart whose answers may differ: part of the result cache's key."""
        known = self._programs.get(spec.id)
        if known is None or known[0] is not spec:
            identity = [spec.digest, spec.adapter, spec.source, spec.upstream, spec.options]
            known = self._programs[spec.id] = spec, Program(REQUIRES + spec.id, sha256(msgspec.json.encode(identity, order="deterministic")).digest())
        return known[1]


def lasts(models: Models, task: Task) -> float:
    """Seconds for which its answer holds. Of weights without a digest nobody here sees that they were changed."""
    if not task.call.requires.startswith(REQUIRES):
        return math.inf
    try:
        return math.inf if models.resolve(task.call.requires.removeprefix(REQUIRES)).digest else UNSEEN
    except ModelNotFound:
        return UNSEEN


def number(spec: ModelSpec) -> int:
    """The version as operations have it; 0 for one that is no number."""
    return int(spec.version) if spec.version.isdecimal() and len(spec.version) < 10 else 0


def describe(spec: ModelSpec) -> dict[str, Any]:
    """As `/operations` shows it: the fields of `Catalogue.describe`, and what is particular to a model."""
    embeds = spec.kind == "embedding"
    summary = "Turns texts into vectors." if embeds else "Continues a chat or a text."
    where = f"{spec.id}, by the {spec.adapter} adapter; the answer is JSON, {'an `Embeddings`' if embeds else 'a `Completion`'}."
    shown = {"id": spec.id, "adapter": spec.adapter, "kind": spec.kind, "digest": spec.digest, "size": spec.size, "license": spec.license}
    return {
        "name": spec.name, "family": "models", "version": number(spec), "summary": summary, "doc": f"{summary}\n\n{where}",
        "parameters": embedding_schema() if embeds else generation_schema(), "outputs": [ANSWER], "steps": not embeds, "cacheable": True,
        "requires": REQUIRES + spec.id, "backends": [spec.adapter], "devices": ["io" if "://" in spec.source or not spec.source else "cpu:0"],
        "model": shown | {"context_length": reads(spec), "parallel": spec.parallel},
    }  # fmt: skip
