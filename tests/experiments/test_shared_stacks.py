"""Stacks that are shared out among processes: the same figures, told on the way, and not trained twice."""

import pytest

from gemma_bench.experiments import (
    capacity_scaling,
    double_descent,
    fine_tune_memorization,
    fine_tune_runs,
    layer_capacity,
    membership,
    quantized_memory,
)
from gemma_bench.training.stack import train

SMALL = {
    capacity_scaling: capacity_scaling.Config(
        rows=(capacity_scaling.FIXTURE.rows[0].model_copy(update={"ratios": (0.5, 5.4), "visits": 16}),)
    ),
    double_descent: double_descent.FIXTURE.model_copy(update={"steps": (150,), "test_sequences": 8}),
    layer_capacity: layer_capacity.FIXTURE.model_copy(update={"visits": 20, "noise_draws": 1}),
    membership: membership.FIXTURE.model_copy(update={"visits": 60, "scored_sequences": 32}),
    quantized_memory: quantized_memory.FIXTURE.model_copy(update={"visits": 40, "seeds": (0,)}),
}


def name(module):
    return module.__name__.rpartition(".")[2]


@pytest.mark.parametrize("module", [module for module in SMALL if module is not quantized_memory], ids=name)
def test_two_processes_find_the_same_and_say_how_far_they_are(module):
    told = []
    (one,) = module.run(SMALL[module])
    (two,) = module.run(SMALL[module].model_copy(update={"workers": 2}), progress=lambda *report: told.append(report))
    assert two.samples == pytest.approx(one.samples, rel=0.05, abs=0.02)
    said = {what for what, _, _ in told}
    assert {"training, process 1", "training, process 2"} <= said
    assert sum(done < total for _, done, total in told) > 2


@pytest.mark.parametrize("module", SMALL, ids=name)
def test_what_a_state_holds_is_not_trained_again(module, monkeypatch, tmp_path):
    (before,) = module.run(SMALL[module], state=tmp_path)
    monkeypatch.setattr(train._Run, "part", lambda *_: pytest.fail("trained again"))
    (after,) = module.run(SMALL[module], state=tmp_path)
    assert after.samples == before.samples


def test_a_fine_tune_that_a_state_holds_is_not_run_again(monkeypatch, tmp_path):
    small = {"base_sequences": 128, "reference_sequences": 128, "held_out_sequences": 16, "visits": 4}
    arm = fine_tune_memorization.FIXTURE.arms[0].model_copy(update={**small, "sequences_counts": (4, 8), "seeds": (0,)})
    config = fine_tune_memorization.Config(arms=(arm,))
    right = fine_tune_runs._point
    with monkeypatch.context() as patched:
        patched.setattr(fine_tune_runs, "_point", lambda *given: right(*given) if given[2] == 4 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(fine_tune_memorization.run(config, state=tmp_path))
    (whole,) = fine_tune_memorization.run(config)
    monkeypatch.setattr(fine_tune_runs, "_point", lambda *given: right(*given) if given[2] == 8 else 1 / 0)
    (resumed,) = fine_tune_memorization.run(config, state=tmp_path)
    assert resumed.memorised_bits == whole.memorised_bits


def test_how_many_share_the_work_is_no_part_of_a_question():
    assert "workers" not in layer_capacity.STUDY.model_dump_json()
