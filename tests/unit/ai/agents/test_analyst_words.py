"""What of a model's wording is shown: each sentence here says something that no tool gave, or says rightly what one did."""

import pytest

from openruntime.ai.agents.analyst.words import LEFT_OUT, checked
from openruntime.contracts.agents import Fact, Report


def report() -> Report:
    made = Report()
    made.data["calls"] = {"m1": {"what": "Run time", "source": "GET /tasks"}, "m2": {"what": "Queue wait", "source": "GET /tasks"}, "m3": {}}
    made.data["calls"]["m3"]["figures"] = [["devices memory_total", 8589934592, "B"], ["devices slots", 2, ""], ["tasks priority", 5, ""]]
    made.data["names"] = ["matmul", "conv2d", "fft", "cpu:0", "cpu:0/numpy", "5 ms", "99", "2026-11-23T10:00:00Z"]
    made.data["period"] = 600.0
    made.facts = [
        Fact("run time of matmul on cpu:0/numpy p50", 0.00321, "s", "m1 GET /tasks"),
        Fact("run time of matmul on cpu:0/numpy p99", 0.0178, "s", "m1 GET /tasks"),
        Fact("run time of fft on cpu:0/numpy p50", 0.25, "s", "m1 GET /tasks"),
        Fact("run time of conv2d on cpu:0/numpy p50", 1.5, "s", "m1 GET /tasks"),
        Fact("tasks that computed", 1234, "tasks", "m1 GET /tasks"),
        Fact("queue wait of all p50", 0.042, "s", "m2 GET /tasks"),
        Fact("share of tasks that failed", 0.125, "ratio", "m2 GET /tasks"),
        Fact("tasks that failed", 7, "tasks", "m2 GET /tasks"),
        Fact("workers", 4, "workers", "m2 GET /tasks"),
        Fact("arrival rate", 12.5, "1/s", "m2 GET /tasks"),
        Fact("ratio of the run time of matmul on cpu:0/numpy", 2.0, "times", "m1 GET /tasks"),
    ]
    return made


TRUE = [
    "The median run time of matmul is 3.21 ms [m1].",
    "The median run time of matmul is 3.2 ms [m1].",
    "The median run time of matmul is about 3 ms [m1].",
    "matmul ran in 3210 µs [m1].",
    "matmul on cpu:0/numpy: p50 3.2 ms, p99 17.8 ms [m1].",
    "**3.21 ms** is matmul's median [m1].",
    "1,234 tasks computed [m1].",
    "About 1,200 tasks computed [m1].",
    "12.5 % of the tasks failed [m2].",
    "12.5 percent failed [m2].",
    "Seven tasks failed [m2].",
    "Four workers are up [m2].",
    "Tasks arrive at 12.5 per second [m2].",
    "12.5 tasks/s arrive [m2].",
    "In the last 10 minutes 1,234 tasks computed [m1].",
    "conv2d is slower than matmul.",
    "conv2d takes 1.5 s [m1].",
    "It began at 2026-11-23T10:00:00Z.",
    "One of the devices is busy.",
    "The device has 8 GiB of memory [m3].",
    "matmul takes 2 times as long [m1].",
    "matmul takes twice as long [m1].",
    "| matmul | 3.21 ms | 17.8 ms | [m1] |",
    "An eighth of the tasks failed [m2].",
    "The run time of matmul doubled [m1].",
    "The device has 2 slots [m3].",
    "Its slots: 2 [m3].",
    "Its priority is 5 [m3].",
    "Both matmul and fft are slow.",
    "Nothing is out of the ordinary.",
    "",
]
FALSE = [
    "The median run time of matmul is 3.3 ms [m1].",
    "The median run time of matmul is 3.21 s [m1].",
    "The median run time of matmul is 3.21 [m9] ms.",
    "The median run time of matmul is 3.21 ms [m2].",  # another call gave it
    "The p99 of matmul is 3.21 ms [m1].",  # it is the median
    "The average run time of matmul is 3.21 ms [m1].",
    "The median run time of fft is 3.21 ms [m1].",  # it is another's
    "fft takes 3.21 ms and matmul 250 ms [m1].",
    "1,235 tasks computed [m1].",
    "1,234 workers are up [m1].",
    "1 234 567 tasks computed.",
    "13.5 % failed.",
    "125 % failed.",
    "0.125 ms is the wait.",
    "Eight tasks failed.",
    "Twenty-seven tasks failed.",
    "Two hundred tasks failed.",
    "Dozens of tasks failed.",
    "It is thousands of times faster.",
    "It is three times faster.",
    "It is 10x faster.",
    "It is an order of magnitude slower.",
    "Half of the tasks failed.",
    "The throughput doubled, then tripled.",
    "The wait was **9**9 ms.",
    "The wait was 4​2 s.",
    "The wait was 4&#50; s.",
    "The wait was <b>9</b> ms.",
    "The wait was <!-- 42 -->43 ms.",
    "The wait was ９９ ms.",
    "The wait was ٩٩ ms.",
    "The wait was 五 seconds.",
    "The wait was Ⅳ seconds.",
    "The wait was 10² ms.",
    "The wait was ½ s.",
    "The wait was 5️⃣ s.",
    "The wait was t5ms.",
    "The wait was 1e3 ms.",
    "The wait was 4.2 × 10^5 s.",
    "The wait was -42 ms.",
    "The client 5 ms waits.",
    "99 tasks.",
    "The last 20 minutes were quiet.",
    "The wait was 10 minutes.",
    "The device has 9 GiB of memory [m3].",
    "`42 s` was the wait.",
    "| matmul | 4.21 ms | [m1] |",
    "Tasks arrive at 12.5 per minute [m2].",
    "The wait was\xa043\xa0ms.",
    "12.5 ms is the arrival rate.",
    "cpu:0 has 8.5 slots [m3].",
    "A third of all tasks failed.",
    "Two thirds of the tasks failed.",
    "Three quarters of the tasks failed.",
    "A tenth of the tasks failed.",
    "Two fifths failed.",
    "Throughput is doubling every hour.",
    "The rate is halving.",
    "Failures grew sevenfold.",
    "Failures grew seven-fold.",
    "Latency has trebled.",
    "Waits quintupled.",
    "A couple of workers died.",
    "Both workers died.",
    "A pair of devices died.",
    "A dozen tasks failed.",
    "2 GPUs are broken [m3].",
    "5 GPUs are broken.",
    "2 are broken.",
    "Tens of tasks failed.",
    "\\4\\3 ms.",
]


@pytest.mark.parametrize("sentence", TRUE)
def test_what_a_tool_gave_is_shown(sentence: str) -> None:
    assert checked(report(), sentence) == sentence


@pytest.mark.parametrize("sentence", FALSE)
def test_what_no_tool_gave_is_not_shown(sentence: str) -> None:
    made = report()
    assert checked(made, sentence) == LEFT_OUT
    assert made.data["left_out"] == 1


def test_only_the_sentence_is_left_out() -> None:
    text = "matmul takes 3.21 ms [m1]. fft takes 9 s [m1]. Nothing else was seen."
    assert checked(report(), text) == f"matmul takes 3.21 ms [m1]. Nothing else was seen.\n\n{LEFT_OUT}"


def test_a_figure_gets_the_id_of_its_call() -> None:
    assert checked(report(), "The median run time of matmul is 3.21 ms.") == "The median run time of matmul is 3.21 ms [m1]."
    assert checked(report(), "| matmul | 3.21 ms |") == "| matmul | 3.21 ms [m1] |"


def test_a_numbered_list_is_no_figure_as_long_as_it_counts() -> None:
    assert checked(report(), "1. matmul is slow.\n2. fft is slow.") == "1. matmul is slow.\n2. fft is slow."
    assert checked(report(), "1. matmul is slow.\n8. fft is slow.") == f"1. matmul is slow.\n fft is slow.\n\n{LEFT_OUT}"
    assert "5" not in checked(report(), "5. ms is the median wait")


def test_a_picture_that_would_be_fetched_is_not_shown() -> None:
    assert checked(report(), "See ![x](https://example.com/leak) here.") == "See  here."


def test_nothing_known_leaves_no_figure() -> None:
    assert checked(Report(), "There are 3 tasks.") == LEFT_OUT
    assert checked(Report(), "All is well.") == "All is well."
