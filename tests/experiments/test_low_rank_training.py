"""What a budget of time decides is decided once for a run, however often that is interrupted."""

from types import SimpleNamespace

import pytest

from gemma_bench.experiments import low_rank_training as experiment
from gemma_bench.training.micro import MICRO


def steps_at(step_s, monkeypatch, state):
    """Return the steps that a run asks for on a machine of this speed."""
    clock = iter([0.0, 99.0, 0.0, 20 * step_s, 20 * step_s, 60 * step_s])
    monkeypatch.setattr(experiment, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    return experiment.run(experiment.FULL, state=state).course.steps


def test_a_resume_trains_as_long_as_the_runs_that_are_kept(monkeypatch, tmp_path):
    for name in ("check_memory", "warm_up", "run_arm"):
        monkeypatch.setattr(experiment, name, lambda *_: None)
    monkeypatch.setattr(experiment, "compare_arms", lambda comparison, **_: comparison)
    slow, fast = (steps_at(step_s, monkeypatch, tmp_path / str(step_s)) for step_s in (0.1, 0.05))
    assert fast > slow
    assert steps_at(0.05, monkeypatch, tmp_path / "0.1") == slow


@pytest.mark.parametrize(("budget_s", "whole"), [(0.0, 2 * 20), (1e6, 300)])
def test_runs_that_are_timed_really_run(budget_s, whole):
    small = experiment.FULL.course.model_copy(update={"size": MICRO, "rows": 1, "length": 16, "held_out_rows": 2})
    config = experiment.FULL.model_copy(update={"course": small, "rank": 2})
    assert experiment._steps(config, budget_s, "cpu") == whole * config.cycles
