"""Progress without a terminal: a plain line now and then, with the time left."""

import pytest

from gemma_bench.cli import console


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands where a test puts it."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_half_minute_with_the_time_left(clock, capsys):
    with console.progress_bar() as report:
        for step in range(1, 101):
            clock[0] += 1
            report(f"training: loss {100 - step}", step, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "training: loss 69, 31 of 1,000 (3 %), 0:16:09 left",
        "training: loss 39, 61 of 1,000 (6 %), 0:15:39 left",
        "training: loss 9, 91 of 1,000 (9 %), 0:15:09 left",
    ]


def test_a_resumed_run_counts_its_own_pace_only(clock, capsys):
    with console.progress_bar() as report:
        for step in (500, 510):
            report("training", step, 1000)
            clock[0] += 100
    assert capsys.readouterr().err == "training, 510 of 1,000 (51 %), 1:21:40 left\n"


def test_what_is_done_soon_says_nothing(clock, capsys):
    with console.progress_bar() as report:
        for done in range(3):
            report("checking", done, 2)
            clock[0] += 5
    assert capsys.readouterr().err == ""


def test_a_thing_keeps_its_bar_when_its_figures_change(monkeypatch):
    from rich.console import Console
    from rich.progress import Progress

    made = []
    add = Progress.add_task
    monkeypatch.setattr(Progress, "add_task", lambda bars, what, **more: made.append(what) or add(bars, what, **more))
    monkeypatch.setattr(console, "errors", Console(force_terminal=True, quiet=True))
    with console.progress_bar() as report:
        report("training", 1, 9)
        report("training: loss 2", 2, 9)
        report("checking", 1, 9)
    assert made == ["training", "checking"]
