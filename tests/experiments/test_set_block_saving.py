"""How chapter 6 judges a record: what is not proven is not refuted."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

Saved = Callable[[list[tuple[tuple[float, ...], tuple[float, ...]]]], list[float]]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "specs"))
    found: Saved = importlib.import_module("evidence.set_block_training").saved_without_loss
    return found


THREE = (2.9, 3.0, 3.1)


def test_a_loss_that_may_be_small_leaves_the_saving_open(saved: Saved) -> None:
    low, value, high = saved([(THREE, (0.004, 0.015, 0.04))])
    assert (low, value) == (0, pytest.approx(200 / 3))
    assert high == pytest.approx(100 * (1 - 1 / 3.1))
    low, value, high = saved([(THREE, (0.02, 0.035, 0.05))])
    assert (low, value) == (0, 0)
    assert high > 100 / 3


def test_a_loss_that_is_surely_small_or_large_decides(saved: Saved) -> None:
    assert saved([(THREE, (0.0, 0.01, 0.03))])[0] == pytest.approx(100 * (1 - 1 / 2.9))
    assert saved([(THREE, (0.031, 0.05, 0.07))]) == [0, 0, 0]


def test_the_ways_share_the_interval(saved: Saved) -> None:
    """A slow way is sure, a fast one may be right: the saving lies between theirs."""
    sure, unsure = ((1.4, 1.5, 1.6), (0.0, 0.0, 0.02)), ((3.9, 4.0, 4.1), (0.01, 0.02, 0.06))
    low, value, high = saved([sure, unsure, ((8.0, 8.0, 8.0), (0.5, 0.6, 0.7))])
    assert [low, value, high] == pytest.approx([100 * (1 - 1 / rate) for rate in (1.4, 4.0, 4.1)])
