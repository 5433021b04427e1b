"""The cost of rank-1 rules: a record for each, timed with its merge, over LoRA at equal rank."""

from types import SimpleNamespace

from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments import rank_one_cost
from gemma_bench.experiments.rank_one_cost import FIXTURE, RankOneCostRecord, run
from gemma_bench.methods.rank_one import RULES

SMALL = FIXTURE.model_copy(update={"rounds": 2, "steps": 1, "length": 16})


def test_a_record_per_rule(tmp_path):
    records = list(run(SMALL))
    assert [record.rule for record in records] == list(RULES)
    paths = {write_record(record, tmp_path) for record in records}
    assert len(paths) == len(RULES)
    for record in (read_record(path, RankOneCostRecord) for path in paths):
        assert len(record.samples) == 2 * SMALL.rounds
        assert record.over_lora_low_ratio <= record.over_lora_ratio <= record.over_lora_high_ratio


def test_a_turn_merges_after_every_step():
    said = []
    training = SimpleNamespace(step=lambda: said.append("step"), merge=lambda: said.append("merge"))
    assert rank_one_cost._ms(training, 3, "cpu") > 0
    assert said == ["step", "merge"] * 3
