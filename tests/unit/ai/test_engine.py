"""What an engine's process says before it ends is kept, however it comes."""

import os
from types import SimpleNamespace

from openruntime.ai.engines.process import Engine


async def test_the_first_words_of_a_report_that_comes_a_word_at_a_time_are_kept() -> None:
    engine = Engine("none", {}, threads=1, name="it")
    read, write = os.pipe()
    os.set_blocking(read, False)
    with os.fdopen(read, "rb", buffering=0) as pipe:
        engine._process = SimpleNamespace(stderr=pipe)  # type: ignore[assignment]
        for word in ["Fatal Python error: Segmentation fault\n", *["frame\n"] * 200]:
            os.write(write, word.encode())
            engine._read_stderr()
        assert (await engine.log()).startswith("Fatal Python error: Segmentation fault")
        os.write(write, b"x" * 65_536)
        for _ in range(3):
            engine._read_stderr()
        assert len(await engine.log()) <= 20_000
        os.close(write)
