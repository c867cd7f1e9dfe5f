"""Every setting, read once: flags first, then `OPENRUNTIME_*` variables, then a TOML file, then the defaults here."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_cache_path, user_data_path
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from openruntime.contracts.errors import InvalidParameter, nearest

PREFIX = "OPENRUNTIME_"
FILE = "config"  # the setting that names the TOML file; not one itself
ELSEWHERE = frozenset({"server"})  # variables that are not the server's: the address that clients and commands use

Count = Annotated[int, Field(ge=1)]
Size = Annotated[ByteSize, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Interval = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _share_or_size(value: object) -> object:
    """A number up to 1 is a share, anything else a size in bytes, perhaps with its unit."""
    try:
        return float(value) if isinstance(value, str | int | float) else value
    except ValueError:
        return _SIZE.validate_python(value)


_SIZE = TypeAdapter(ByteSize)
Memory = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_share_or_size)]


class Settings(BaseModel):
    """Sizes are bytes and may be written `64KiB`, `1GB`; durations are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True)

    insecure: bool = Field(False, description="Allow listening beyond this machine although everybody who can reach the port may do everything.")
    host: str = Field("127.0.0.1", description="Address to listen at. One that other machines can reach needs `insecure`.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen at; 0 takes a free one.")
    cors: bool = Field(False, description="Let pages of any origin call the API; for development.")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("openruntime", appauthor=False),
        description="Directory of the tasks, results and blobs, with one owner at a time. By default where XDG has user data.",
    )
    cache_dir: Path = Field(
        default_factory=lambda: user_cache_path("openruntime", appauthor=False),
        description="Directory of what can be made again, such as what backends reported; servers may share it. By default where XDG has caches.",
    )
    store: str = Field(
        "sqlite",
        description="Where tasks are kept: `sqlite` (in the data directory), `memory` (gone when the server stops), "
        "or `redis://HOST:PORT/DATABASE`, which several servers may share.",
    )
    blobs: str | None = Field(
        None,
        description="Where servers on one Redis keep large arrays, if not under `data_dir`: a folder that all have mounted, `s3://BUCKET/PREFIX`, "
        "or what else fsspec opens.",
    )
    cluster: str | None = Field(None, description="Address of a cluster to take devices from.")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    log_json: bool = Field(False, description="Logs as one JSON object a line.")
    exporters: tuple[str, ...] = Field(
        (), description="Where metrics are sent, as `name:target`: `json:FILE`, `prometheus:FILE`, or a plugin's; comma-separated."
    )
    export_every: Interval = Field(15.0, description="Seconds between exports of the metrics.")

    backends: tuple[str, ...] | None = Field(
        None, description="Libraries that may drive devices, comma-separated, beside `numpy`, which always does. By default all that are installed."
    )
    slots: Count | None = Field(None, description="Tasks that run at once on the CPU. By default chosen from its cores.")
    threads: Count | None = Field(None, description="Compute threads of each CPU worker. By default chosen from its cores.")
    strategy: Literal["predicted_finish", "least_loaded", "round_robin", "best_fit"] = Field(
        "predicted_finish", description="How a task's device is chosen: soonest predicted finish, least work waiting, in turn, or tightest memory."
    )
    calibrate: bool = Field(
        True,
        description="Measure at the first start how fast each backend is here: 5 seconds of computing in all, while nothing else runs. "
        "With the `memory` store that, and what is learned later, is kept in `cache_dir`.",
    )
    outstanding: Count = Field(64, description="Tasks sent to a worker ahead; it runs one at a time.")
    batch: Count = Field(64, description="Alike small tasks that run as one at most; 1 runs each by itself.")
    batch_bytes: Size = Field(ByteSize(64 << 20), description="Memory that tasks which run as one may need together.")
    worker_idle: Seconds = Field(60.0, description="Seconds without work after which a worker beyond a device's first ends.")
    worker_memory: Size | None = Field(
        None, description="Memory of its own that a CPU worker may take, shared arrays apart; 0 for no bound. By default nine tenths of all."
    )
    worker_growth: Size = Field(
        ByteSize(1 << 30), description="Memory of its own that an idle worker may have gained since its start; one with more is replaced."
    )
    device_memory: Memory = Field(
        0.9, description="Memory of a GPU that each of its workers may take: a share of it (`0.5`) or a size (`8GiB`); 0 for no bound."
    )
    model_memory: Memory = Field(
        0.5, description="Memory that loaded models may take together: a share of the machine's (`0.5`) or a size (`8GiB`); 0 for no bound."
    )
    model_idle: Interval = Field(300.0, description="Seconds without a request after which a model is unloaded.")
    model_requests: Count = Field(64, description="Requests to models that are answered at once, whatever each takes.")
    ageing_step: Interval = Field(30.0, description="Seconds of waiting that raise a task as much as one step of priority.")
    queue_bound: Count = Field(100_000, description="Tasks that may wait; more are refused with `queue_full`.")
    queue_bytes: Size = Field(
        ByteSize(1 << 30), description="Memory that the inputs of tasks which wait or run may take in the server, large ones that rest on disk or in "
        "shared memory apart; more are refused with `queue_full`. On Redis its own `maxmemory` bounds them.",
    )  # fmt: skip
    shutdown_grace: Seconds = Field(30.0, description="Seconds that running tasks have to end after SIGTERM; what is left runs after the next start.")

    agents: Count = Field(8, description="Runs of AI agents that work at the same time; more wait for their turn.")

    cache: bool = Field(True, description="Answer repeated computations from the result cache.")
    cache_bytes: Size = Field(ByteSize(1 << 30), description="Size of the result cache; the least recently used go first.")
    cache_ttl: Seconds = Field(86_400.0, description="Seconds that a cached result stays good.")
    kernel_cache_bytes: Size = Field(
        ByteSize(1 << 30), description="Size of the compiled kernels kept in `cache_dir`; the least recently used go first."
    )
    history_count: Count = Field(100_000, description="Finished tasks kept.")
    history_age: Interval = Field(86_400.0, description="Seconds that a finished task's record is kept.")
    history_bytes: Size = Field(ByteSize(10 << 30), description="Size of the records and results of finished tasks; the oldest go first.")
    result_ttl: Interval = Field(86_400.0, description="Seconds that a result is kept after its task ended.")
    tensor_ttl: Interval = Field(86_400.0, description="Seconds that a tensor is kept, unless its upload says otherwise.")
    tensor_bytes: Size = Field(ByteSize(4 << 30), description="Size of all kept tensors; more are refused with `storage_full`.")

    model: str | None = Field(
        None, description="The model in use where a request names none: `NAME`, `NAME:VERSION` or an alias. By default the one that was promoted, "
        "else the newest that was added, else one that was found.",
    )  # fmt: skip
    embedding_model: str | None = Field(None, description="The same for embeddings.")
    openai_model: str | None = Field(
        None, description="The model to call where `OPENAI_API_KEY` or `OPENAI_BASE_URL` is set. By default `gpt-5-mini` at OpenAI, "
        "elsewhere all that the server there lists.",
    )  # fmt: skip

    body_limit: Size = Field(ByteSize(1 << 30), description="Largest request body; larger ones are refused with `payload_too_large`.")
    body_timeout: Interval = Field(30.0, description="Seconds a request body may make no progress before it is cut off.")
    longest_wait: Seconds = Field(60.0, description="Longest time a request may wait for a result; a longer wish is shortened to it.")
    inline_elements: int = Field(1000, ge=0, description="Elements up to which an array in a JSON answer is nested lists; a larger one is a tensor.")
    inline_bytes: Size = Field(ByteSize(65_536), description="Array size up to which it is kept in its task's row; a larger one is a blob.")
    websocket_queue: Count = Field(10_000, description="Events that a WebSocket reader may lag behind before it gets a gap in their place.")

    @field_validator("host")
    @classmethod
    def _reachable_only_on_purpose(cls, host: str, info: ValidationInfo) -> str:
        if not info.data.get("insecure", True) and not _is_loopback(host):
            raise ValueError(
                f"{host or 'every address'} can be reached from other machines, and whoever reaches it may run anything: "
                f"listen at 127.0.0.1, or accept that with --insecure ({PREFIX}INSECURE=true)"
            )
        return host

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _in_the_home_directory(cls, path: Path) -> Path:
        return path.expanduser()

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_any_case(cls, level: object) -> object:
        return level.lower() if isinstance(level, str) else level

    @field_validator("exporters", "backends", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("store")
    @classmethod
    def _known_store(cls, store: str) -> str:
        if store in ("sqlite", "memory"):
            return store
        scheme, url, _ = store.partition("://")  # what follows may hold a password
        if url and scheme in ("redis", "rediss", "unix"):
            return store
        raise ValueError(f"there is no store {scheme!r}; use `sqlite`, `memory` or `redis://HOST:PORT/DATABASE`")

    @field_validator("blobs")
    @classmethod
    def _shared_by_several(cls, blobs: str | None, info: ValidationInfo) -> str | None:
        if blobs is not None and info.data.get("store") in ("sqlite", "memory"):
            raise ValueError("only servers on one Redis (`store`) share a place for large arrays; leave it out")
        return blobs

    @field_validator("cluster")
    @classmethod
    def _no_cluster(cls, cluster: str | None) -> str | None:
        if cluster is not None:
            raise ValueError("clusters are not part of this version; leave it out to use the devices of this machine")
        return cluster

    @classmethod
    def load(cls, flags: Mapping[str, object] | None = None, config_file: Path | None = None) -> Self:
        """Read every source. Flags that are None count as not given; the file may also be named by the flag or variable `config`.

        Raises `InvalidParameter`, naming each setting that is unknown or has a bad value, and where it was set."""
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        variables = dict(_environment())
        file = config_file or given.pop(FILE, None) or variables.get(FILE)
        variables.pop(FILE, None)
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for source, spelt in (
            (_file(Path(str(file)).expanduser()) if file else {}, lambda name: f"`{name}` in {file}"),
            (variables, lambda name: PREFIX + name.upper()),
            (given, lambda name: f"--{name.replace('_', '-')}"),
        ):
            values |= source
            sources |= {name: spelt(name) for name in source}
        try:
            return cls(**values)
        except ValidationError as error:
            told = [_sentence(problem, values, sources) for problem in error.errors()]
            raise InvalidParameter("\n".join(told), field=str(error.errors()[0]["loc"][0])) from None


def _environment() -> Iterator[tuple[str, str]]:
    """Settings from the environment; an empty variable counts as not set."""
    for variable, value in os.environ.items():
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and value and name not in ELSEWHERE:
            yield name, value


def _file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InvalidParameter(f"the configuration file {path} cannot be read: {error.strerror}", field=FILE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"the configuration file {path} is not TOML: {error}", field=FILE) from None


def _sentence(problem: Any, values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    name = str(problem["loc"][0])
    where = sources.get(name, f"`{name}`")
    if problem["type"] == "extra_forbidden":
        table = "; settings stand at the top of the file, in no table" if isinstance(values[name], dict) else ""
        return f"{where}: there is no such setting{table or nearest(name, (*Settings.model_fields, FILE))}"
    if problem["type"] == "value_error":
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{where}: {problem['msg']}, not {str(problem['input'])[:100]!r}"


def _is_loopback(host: str) -> bool:
    if host.casefold() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
