"""Frames against the library that reads them, and many of them over a real server's socket."""

import json

import pytest
from websockets.frames import Frame
from websockets.streams import StreamReader
from websockets.sync.client import connect

from benchmarks.load import drive, request
from benchmarks.servers import Server
from benchmarks.subscribers import listen
from openruntime.gateway.ws_protocol import text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_frames_of_every_length_are_read_back(size: int) -> None:
    reader = StreamReader()
    reader.feed_data(text_frame(b"x" * size))
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as ended:
        next(parsing)
    assert (ended.value.value.data, ended.value.value.fin) == (b"x" * size, True)


def test_messages_that_leave_together_arrive_one_by_one_and_uncompressed(server: Server) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/ws") as socket:
        assert not socket.protocol.extensions
        socket.send(json.dumps({"subscribe": ["tasks"]}))
        assert json.loads(socket.recv(timeout=5))["type"] == "subscribed"
        body = json.dumps({"operation": "uniform", "parameters": {"shape": [2], "seed": 1}, "tags": ["together"]}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Prefer": "wait=10"}
        drive(server.port, [request("POST", "/tasks", body, headers)] * 100, 8)
        seen = [json.loads(socket.recv(timeout=5)) for _ in range(300)]
    assert [event["seq"] for event in seen] == list(range(seen[0]["seq"], seen[0]["seq"] + 300))


def test_fifty_subscribers_hear_all_of_it_soon(server: Server) -> None:
    heard = listen(server, 50, 1.0)
    assert heard.events >= 60
    assert heard.missing == 0
    assert heard.p99 < 1.0
