"""The short run: it learns, ends at whichever bound comes first, and does not go on from nonsense."""

import math

import pytest
import torch

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.training.short_run import Keep, Schedule, train


def squares(model):
    def losses(_):
        yield ((model.weight - 3) ** 2).sum() / 2
        yield ((model.weight - 3) ** 2).sum() / 2

    return losses


@pytest.fixture
def model():
    return torch.nn.Linear(2, 1, bias=False)


def test_it_finds_the_smallest_loss(model):
    done = train(model, squares(model), Schedule(400, 0.1))
    assert done.steps_count == 400
    assert done.losses_nats[-1] < 1e-3 < done.losses_nats[0]
    assert not model.training


def test_seconds_end_it_too(model):
    assert train(model, squares(model), Schedule(10**6, 0.1, budget_s=0.2)).steps_count < 10**6


def test_the_rate_rises_then_falls_with_steps_or_seconds():
    schedule = Schedule(100, 1.0, warmup_steps=10, budget_s=50)
    assert schedule.rate(0, 0) == pytest.approx(0.1)
    assert schedule.rate(50, 0) == pytest.approx(schedule.rate(10, 25))
    assert schedule.rate(100, 0) == pytest.approx(0.05)


def test_a_loss_that_is_no_number_is_named(model):
    with pytest.raises(InvalidRunError, match="step 0 is nan"):
        train(model, lambda _: [model.weight.sum() * math.nan], Schedule(5, 0.1))


@pytest.mark.parametrize(("steps", "rate"), [(0, 1.0), (1, 0.0)])
def test_runs_without_meaning_are_refused(steps, rate):
    with pytest.raises(BadInputError, match="must be"):
        Schedule(steps, rate)


class KilledError(Exception):
    """What stops a run from outside."""


def noisy(model, generator, killed_at=None):
    def losses(step):
        if step == killed_at:
            raise KilledError
        yield ((model.weight - torch.randn(model.weight.shape, generator=generator)) ** 2).sum()

    return losses


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr("gemma_bench.training.short_run._SAVE_EVERY_S", 0)  # after each step
    schedule, start = Schedule(40, 0.1), torch.nn.Linear(2, 1, bias=False).state_dict()
    weights = {}
    for name, killed_at in (("whole", None), ("killed", 23)):
        model, generator = torch.nn.Linear(2, 1, bias=False), torch.Generator().manual_seed(1)
        model.load_state_dict(start)
        keep = Keep(tmp_path / f"{name}.pt", (generator,))
        if killed_at is not None:
            with pytest.raises(KilledError):
                train(model, noisy(model, generator, killed_at), schedule, keep=keep)
            model, generator = torch.nn.Linear(2, 1, bias=False), torch.Generator().manual_seed(99)
            keep = Keep(keep.path, (generator,))
        done = train(model, noisy(model, generator), schedule, keep=keep)
        weights[name] = (model.weight.tolist(), done.steps_count, done.losses_nats)
    assert weights["whole"] == weights["killed"]


def test_a_finished_run_is_read_back(tmp_path, model):
    keep = Keep(tmp_path / "run.pt", ())
    done = train(model, squares(model), Schedule(5, 0.1), keep=keep)
    other = torch.nn.Linear(2, 1, bias=False)
    assert train(other, noisy(other, None, killed_at=0), Schedule(5, 0.1), keep=keep) == done
    assert torch.equal(other.weight, model.weight)
