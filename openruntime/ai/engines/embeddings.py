"""The process that holds a model of sentence-transformers: texts come as frames, vectors go back as bytes. Started by `Engine`."""

import os
import queue
import time
from collections import deque
from typing import Any

import msgspec
from sentence_transformers import SentenceTransformer

from openruntime.ai.engines.host import Host

_decoder = msgspec.msgpack.Decoder(tuple[int, list[str] | None])


GOES_ON = ""  # said after a step, instead of a failure: an engine that says nothing for long is stuck
STEP = 0.1  # seconds that are computed before somebody else has a turn, and a cancel is heard
LEAST, MOST = 256, 1 << 20  # characters, all padded to the longest, of a step


class _Asked:
    """A request's texts, the short ones first, so that those computed together are alike in length."""

    def __init__(self, number: int, texts: list[str]) -> None:
        self.number = number
        self.texts = texts
        self.left = deque(sorted(range(len(texts)), key=lambda at: len(texts[at])))
        self.vectors: list[bytes] = [b""] * len(texts)
        self.tokens = 0


class _Work:
    """Takes some texts of each request in turn: a long one does not hold up a short one, and ends soon when it is cancelled."""

    def __init__(self, model: SentenceTransformer, host: Host, asked: "queue.SimpleQueue[bytes]", batch: int) -> None:
        self._model = model
        self._host = host
        self._asked = asked
        self._batch = batch
        self._longest = 6 * (model.max_seq_length or 512)  # characters that count
        self._room = 2048.0
        self._all: deque[_Asked] = deque()

    def run(self) -> None:
        while True:
            while not self._all or not self._asked.empty():
                number, texts = _decoder.decode(self._asked.get())
                if texts is None:
                    self._all = deque(each for each in self._all if each.number != number)
                else:
                    self._all.append(_Asked(number, texts))
            each = self._all.popleft()
            try:
                self._step(each)
            except Exception as error:
                self._host.say((each.number, b"", 0, 0, f"{type(error).__name__}: {error!s:.500}"))
                continue
            if each.left:
                self._all.append(each)
                self._host.say((each.number, b"", 0, 0, GOES_ON))
            else:
                self._host.say((each.number, b"".join(each.vectors), len(each.vectors[0]) // 4, each.tokens, None))

    def _step(self, each: _Asked) -> None:
        places = [each.left.popleft()]
        while each.left and len(places) < self._batch and (len(places) + 1) * self._length(each, each.left[0]) <= self._room:
            places.append(each.left.popleft())
        texts = [each.texts[at] for at in places]
        begun = time.monotonic()
        vectors: Any = self._model.encode(texts, batch_size=len(texts), convert_to_numpy=True, show_progress_bar=False)
        rate = len(places) * self._length(each, places[-1]) / (time.monotonic() - begun)
        self._room = min(MOST, max(LEAST, (self._room + rate * STEP) / 2, self._room / 2))
        for at, vector in zip(places, vectors, strict=True):
            each.vectors[at] = vector.astype("float32").tobytes()
        each.tokens += int(self._model.preprocess(texts)["attention_mask"].sum())

    def _length(self, each: _Asked, at: int) -> int:
        return 8 + min(len(each.texts[at]), self._longest)


def main() -> None:
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    host = Host(asked.put)
    settings = host.settings
    try:
        model = SentenceTransformer(settings["path"], device=settings["device"], local_files_only=True, trust_remote_code=False)
    except Exception as error:
        host.refuse(f"{os.path.basename(settings['path'])} cannot be loaded by sentence-transformers: {type(error).__name__}: {error!s:.500}")
    host.ready(dimensions=model.get_embedding_dimension(), context=model.max_seq_length)
    _Work(model, host, asked, settings["batch"]).run()


if __name__ == "__main__":
    main()
