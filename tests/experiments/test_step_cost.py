"""Step cost: records per method, interleaved turns, and one sentence for what cannot be."""

import pytest

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments import step_cost
from gemma_bench.experiments.step_cost import FIXTURE, FULL, Config, StepRecord, in_turn, run
from gemma_bench.measure.training_time import started
from gemma_bench.training.adapters import layers

SMALL = Config(
    cases=(FIXTURE.cases[0].model_copy(update={"methods": ("full", "lora"), "length": 16}),), rounds=2, steps=1
)


def test_a_record_per_method_with_forecast_and_measured_bytes(tmp_path):
    records = list(run(SMALL))
    assert [record.method for record in records] == ["full", "lora"]
    for record in records:
        assert len(record.samples) == 2 * SMALL.rounds
        assert record.forecast_peak_bytes == pytest.approx(record.measured_peak_bytes, rel=0.05)
        assert record.step_low_ms <= record.step_ms <= record.step_high_ms
        assert record.smallest_effect_percent is None, "two rounds do not tell"
    assert records[0].over_first_ratio == 1
    paths = {write_record(record, tmp_path) for record in records}
    assert {read_record(path, StepRecord).method for path in paths} == {"full", "lora"}


def test_a_case_whose_records_were_taken_is_not_run_again(tmp_path):
    longer = SMALL.cases[0].model_copy(update={"length": 32})
    two = SMALL.model_copy(update={"cases": (*SMALL.cases, longer)})
    begun = run(two, state=tmp_path)
    taken = [next(begun) for _ in range(3)]
    begun.close()
    assert [one.length_count_tokens for one in taken] == [16, 16, 32]
    assert [one.length_count_tokens for one in run(two, state=tmp_path)] == [32, 32]
    assert list(run(two, state=tmp_path)) == []


def test_what_would_not_fit_is_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(step_cost, "free_bytes", lambda _: 2**30)
    monkeypatch.setattr(step_cost, "measure", lambda _: pytest.fail("built"))
    with pytest.raises(
        UnavailableError, match=r"270m 1×256 float32 needs \d+\.\d GiB for full, lora, .* 1\.0 GiB available"
    ):
        next(run(step_cost.STUDY))
    monkeypatch.setattr(step_cost, "free_bytes", lambda _: 20 * 2**30)
    step_cost._check_memory(step_cost.STUDY.cases[0], 20 * 2**30)


def test_methods_take_turns_forwards_and_backwards(monkeypatch):
    said = []
    monkeypatch.setattr(step_cost, "steps", lambda training, _: training)
    monkeypatch.setattr(step_cost, "elapsed_s", lambda work, _: said.append(work) or 1.0)
    times = in_turn({"a": "a", "b": "b"}, SMALL, "cpu", "case")
    assert "".join(said) == 3 * "abba", "the first round is not counted"
    assert {method: len(samples) for method, samples in times.items()} == {"a": 4, "b": 4}


def test_ratios_are_of_rounds():
    assert step_cost._by_round([2, 2, 6, 6], [1, 1, 2, 2]) == [2, 3]


@pytest.mark.parametrize("method", ["relora", "rank1"])
def test_the_merge_that_is_timed_changes_the_weights(method):
    training = started(FIXTURE.cases[0].plan(method), "cpu")
    *_, layer = layers(training.prepared.model).values()
    before = layer.get_base_layer().weight.clone()
    training.merge()
    assert not before.equal(layer.get_base_layer().weight)


def test_relora_over_lora_at_study_scale_trains_adapters_alone():
    whole, alone = step_cost.STUDY.cases
    assert alone.methods[0] == "lora"
    assert alone.name == f"{whole.name}, frozen embeddings"
    assert not alone.plan("relora").method.trains_weights
    assert alone.plan("relora").method.rank == alone.plan("lora").method.rank
    assert whole.plan("relora").method.trains_weights


def test_adapters_alone_are_compared_with_their_merges():
    case = FIXTURE.cases[0].model_copy(update={"methods": ("lora", "relora"), "length": 16, "embeddings": False})
    lora, relora = run(Config(cases=(case,), rounds=2))
    assert lora.trained_parameters_count == relora.trained_parameters_count
    assert lora.with_merges_over_first_ratio == 1
    share = relora.merge_ms / 200 / relora.step_ms
    assert relora.with_merges_over_first_ratio == pytest.approx(relora.over_first_ratio * (1 + share))


def test_the_full_scale_is_the_published_model_and_the_12b():
    assert {case.model for case in FULL.cases} == {"llama-1.3b", "12b"}
    assert {case.checkpointing for case in FULL.cases if case.model == "llama-1.3b"} == {True, False}
    for case in FULL.cases:
        assert [case.plan(method) for method in case.methods]


def test_too_few_rounds_are_refused():
    with pytest.raises(BadInputError, match="rounds must be at least 2"):
        next(run(SMALL.model_copy(update={"rounds": 1})))
