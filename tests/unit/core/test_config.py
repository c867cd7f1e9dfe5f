"""Settings: where they come from, in which order, and what is said about a bad one."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from openruntime.contracts.errors import InvalidParameter
from openruntime.core.config import Settings
from openruntime.core.runtime import open_blobs
from openruntime.devices.allocator import STRATEGIES


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OPENRUNTIME_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "openruntime.toml"
    path.write_text('port = 7000\nslots = 3\ncache_bytes = "64MiB"\n')
    return path


def test_defaults_keep_what_the_design_promises() -> None:
    settings = Settings.load()
    assert (settings.host, settings.port, settings.store, settings.cluster, settings.insecure) == ("127.0.0.1", 8000, "sqlite", None, False)
    assert settings.queue_bound >= 100_000
    assert settings.history_count >= 100_000
    assert settings.history_age == settings.result_ttl == 86_400
    assert (settings.body_limit, settings.body_timeout, settings.longest_wait) == (1 << 30, 30, 60)
    assert (settings.inline_elements, settings.inline_bytes, settings.outstanding) == (1000, 65_536, 64)


def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    if sys.platform == "linux":
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert Settings.load().data_dir == tmp_path / "openruntime"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.load({"data_dir": "~/data"}).data_dir == tmp_path / "data"


def test_flags_before_variables_before_the_file(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    assert Settings.load(config_file=file).port == 7000
    monkeypatch.setenv("OPENRUNTIME_PORT", "7001")
    assert Settings.load(config_file=file).port == 7001
    settings = Settings.load({"port": 7002, "host": None}, file)
    assert (settings.port, settings.host, settings.slots, settings.cache_bytes) == (7002, "127.0.0.1", 3, 64 << 20)


def test_the_file_may_be_named_by_flag_or_variable(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    assert Settings.load({"config": file}).port == 7000
    monkeypatch.setenv("OPENRUNTIME_CONFIG", str(file))
    assert Settings.load().port == 7000


def test_variables_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "LOG_JSON": "true",
        "BODY_LIMIT": "2GiB",
        "LOG_LEVEL": "DEBUG",
        "CACHE": "off",
        "EXPORTERS": "json:/tmp/x, prometheus:/tmp/y",
        "THREADS": "",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"OPENRUNTIME_{name}", value)
    monkeypatch.setenv("OPENRUNTIME_SERVER", "http://gpu-box:8000")  # the commands', not the server's
    settings = Settings.load()
    assert (settings.log_json, settings.body_limit, settings.log_level, settings.cache, settings.threads) == (True, 2 << 30, "debug", False, None)
    assert settings.exporters == ("json:/tmp/x", "prometheus:/tmp/y")


def refused(flags: dict[str, object] | None = None, file: Path | None = None) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as error:
        Settings.load(flags, file)
    return error.value


def test_unknown_names_are_told_with_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("prot = 1\n")
    assert refused(file=path).message.startswith(f"`prot` in {path}: there is no such setting; did you mean port")
    monkeypatch.setenv("OPENRUNTIME_LOGLEVEL", "info")
    assert refused().message.startswith("OPENRUNTIME_LOGLEVEL: there is no such setting; did you mean log_level")
    monkeypatch.delenv("OPENRUNTIME_LOGLEVEL")
    error = refused({"data_dri": "/tmp"})
    assert error.message.startswith("--data-dri: there is no such setting; did you mean data_dir")
    assert error.field == "data_dri"


def test_a_table_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[server]\nport = 1\n")
    assert refused(file=path).message == f"`server` in {path}: there is no such setting; settings stand at the top of the file, in no table"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "70000", "OPENRUNTIME_PORT: Input should be less than or equal to 65535, not '70000'"),
        ("port", "http", "OPENRUNTIME_PORT: Input should be a valid integer, unable to parse string as an integer, not 'http'"),
        ("slots", "0", "OPENRUNTIME_SLOTS: Input should be greater than or equal to 1, not '0'"),
        ("body_limit", "big", "OPENRUNTIME_BODY_LIMIT: could not parse value and unit from byte string, not 'big'"),
        ("longest_wait", "inf", "OPENRUNTIME_LONGEST_WAIT: Input should be a finite number, not 'inf'"),
        ("ageing_step", "0", "OPENRUNTIME_AGEING_STEP: Input should be greater than 0, not '0'"),
        ("cache", "perhaps", "OPENRUNTIME_CACHE: Input should be a valid boolean, unable to interpret input, not 'perhaps'"),
        ("strategy", "best", "OPENRUNTIME_STRATEGY: Input should be 'predicted_finish', 'least_loaded', 'round_robin' or 'best_fit', not 'best'"),
        ("store", "postgres://u:secret@db", "OPENRUNTIME_STORE: there is no store 'postgres'; use `sqlite`, `memory` or `redis://HOST:PORT/DATABASE`"),
        ("blobs", "s3://b", "OPENRUNTIME_BLOBS: only servers on one Redis (`store`) share a place for large arrays; leave it out"),
        ("cluster", "ray://head", "OPENRUNTIME_CLUSTER: clusters are not part of this version; leave it out to use the devices of this machine"),
    ],
)  # fmt: skip
def test_bad_values_name_the_setting_and_its_source(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(f"OPENRUNTIME_{name.upper()}", value)
    error = refused()
    assert (error.message, error.field) == (says, name)


def test_all_bad_values_are_told_at_once(file: Path) -> None:
    file.write_text("port = -1\n")
    assert refused({"threads": 0}, file).message.splitlines() == [
        f"`port` in {file}: Input should be greater than or equal to 0, not '-1'",
        "--threads: Input should be greater than or equal to 1, not '0'",
    ]


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    assert (
        refused(file=tmp_path / "none.toml").message == f"the configuration file {tmp_path / 'none.toml'} cannot be read: No such file or directory"
    )
    (tmp_path / "bad.toml").write_text("port = = 1")
    assert "is not TOML: " in refused(file=tmp_path / "bad.toml").message
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "is not TOML: " in refused(file=tmp_path / "binary.toml").message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "gpu-box", "localhost.example.org", ""])
def test_listening_beyond_this_machine_needs_to_be_meant(host: str) -> None:
    message = refused({"host": host}).message
    assert message.startswith("--host: ")
    assert message.endswith("listen at 127.0.0.1, or accept that with --insecure (OPENRUNTIME_INSECURE=true)")
    assert Settings.load({"host": host, "insecure": True}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_this_machine_is_fine(host: str) -> None:
    assert Settings.load({"host": host}).host == host


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")] == []


def test_what_is_offered_exists() -> None:
    from typing import get_args

    assert set(get_args(Settings.model_fields["strategy"].annotation)) == set(STRATEGIES)
    assert all(isinstance(logging.getLevelName(level.upper()), int) for level in get_args(Settings.model_fields["log_level"].annotation))


def test_the_redis_store_without_its_extra_names_the_extra() -> None:
    script = """
import sys
sys.modules["redis"] = None
from openruntime.contracts.errors import MissingExtra
from openruntime.core.config import Settings
from openruntime.core.runtime import open_store
try:
    open_store(Settings.load({"store": "redis://:secret@db:6379/1"}))
except MissingExtra as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip().endswith("needs an optional part: install it with `pip install 'openruntime[redis]'`")
    assert "secret" not in ended.stdout


def test_large_arrays_of_several_servers_stand_where_the_setting_says(tmp_path: Path) -> None:
    shared = {"store": "redis://db", "data_dir": tmp_path}
    mounted = tmp_path / "mounted"
    for place, kind in ((None, "FileBlobs"), (str(mounted), "FileBlobs"), (mounted.as_uri(), "FileBlobs"), ("memory://arrays", "SharedBlobs")):
        assert type(open_blobs(Settings.load({**shared, "blobs": place}))).__name__ == kind
    with pytest.raises(InvalidParameter, match="carrier-pigeon"):
        open_blobs(Settings.load({**shared, "blobs": "carrier-pigeon://loft"}))


@pytest.mark.parametrize(("given", "found"), [("0.5", 0.5), ("8GiB", float(8 << 30)), ("0", 0.0), (1, 1.0), ("1000000", 1e6), ("1e9", 1e9)])
def test_device_memory_is_a_share_or_a_size(given: object, found: float) -> None:
    assert Settings.load({"device_memory": given}).device_memory == found


def test_device_memory_is_told_what_it_should_be() -> None:
    with pytest.raises(InvalidParameter, match="device-memory"):
        Settings.load({"device_memory": "half"})


def test_backends_are_named_with_commas() -> None:
    assert Settings.load({"backends": "torch, jax"}).backends == ("torch", "jax")
    assert Settings.load({}).backends is None
