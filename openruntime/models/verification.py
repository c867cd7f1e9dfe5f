"""Whether weights are what they were when they were added: looked at before they are opened, when their files have changed since."""

import threading
from pathlib import Path

import msgspec

from openruntime.contracts.ai import ModelSpec
from openruntime.contracts.errors import DamagedModel, InvalidParameter
from openruntime.models.entries import replace
from openruntime.models.weights import digest, examine, look

Seen = list[tuple[str, int, int, int]]


class _Whole(msgspec.Struct, frozen=True):
    digest: str
    seen: Seen


class Verification:
    """`file` remembers what was found whole; without it, it is found out again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._whole: dict[str, _Whole] | None = None
        self._damaged: dict[str, tuple[Seen | None, str]] = {}
        self._checking = threading.Lock()

    def done(self, spec: ModelSpec) -> bool:
        """Whether there is nothing to look at: the model is elsewhere, or its files are as they were when they were found whole."""
        if not local(spec):
            return True
        known = self._known().get(spec.source)
        return known is not None and known.digest == spec.digest and known.seen == _look(Path(spec.source))

    def reason(self, spec: ModelSpec) -> str | None:
        """Why it is not served, as far as that can be said at once."""
        if not local(spec):
            return None
        seen = _look(Path(spec.source))
        if seen is None:
            return f"its weights are gone: there is no {spec.source}"
        damaged = self._damaged.get(spec.source)
        return damaged[1] if damaged is not None and damaged[0] == seen else None

    def check(self, spec: ModelSpec, *, anew: bool = False) -> None:
        """Reads all of it unless that was done since its files last changed, or `anew`. Raises `DamagedModel`."""
        with self._checking:
            if anew:
                self._damaged.pop(spec.source, None)
            elif self.done(spec):
                return
            if (why := self.reason(spec)) is None:
                why = self._look_through(spec)
            if why is not None:
                raise DamagedModel(f"model {spec.id} is not served: {why}")

    def _look_through(self, spec: ModelSpec) -> str | None:
        path = Path(spec.source)
        seen = _look(path)
        try:
            examine(path)
            found = digest(path)
            why = None if found == spec.digest or not spec.digest else f"its SHA-256 is {found}, not {spec.digest}; add it again, or get it again"
        except InvalidParameter as error:
            why = error.message
        except OSError as error:
            why = f"{path} cannot be read: {error.strerror}"
        if why is not None:
            self._damaged[spec.source] = seen, why
            return why
        if seen is not None:
            self.remember(spec, seen)
        return None

    def remember(self, spec: ModelSpec, seen: Seen) -> None:
        """Its files, looking as in `seen`, were read, and are right."""
        known = {source: whole for source, whole in self._read().items() if Path(source).exists()}  # another process may have written it
        self._whole = known | {spec.source: _Whole(spec.digest, seen)}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace(self._file, msgspec.json.encode(self._whole))
        except OSError:
            pass  # it is found out again

    def _known(self) -> dict[str, _Whole]:
        if self._whole is None:
            self._whole = self._read()
        return self._whole

    def _read(self) -> dict[str, _Whole]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, _Whole])
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
            return {}


def local(spec: ModelSpec) -> bool:
    """Whether its weights are files of this machine."""
    return bool(spec.source) and "://" not in spec.source


def _look(path: Path) -> Seen | None:
    try:
        return look(path)
    except (OSError, InvalidParameter):
        return None
