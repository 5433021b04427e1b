"""A run's picture shows what was read on the way: the drawn figures are read back."""

import pytest

from gemma_bench.measure.rank_evolution import RankReadings
from gemma_bench.measure.spectrum import random_sum
from gemma_bench.report.figures import save
from gemma_bench.report.rank_pictures import run_picture

pytest.importorskip("matplotlib")


@pytest.fixture
def readings():
    names = [f"model.layers.{layer}.self_attn.{kind}" for layer in (0, 1) for kind in ("q_proj", "o_proj")]
    found = RankReadings(names)
    for step in (10, 20, 30):
        found.read_changes(step, {name: random_sum([1.0] * (step // 10), (16, 12), seed=7) for name in names})
    return found


def test_a_run_s_picture_shows_its_readings_by_type_and_layer(readings):
    means, ranks, spectrum, way = run_picture(readings, "a run").axes[:4]
    assert means.lines[0].get_ydata().tolist() == [1, 2, 3]
    assert [label.get_text() for label in ranks.get_yticklabels()] == ["o_proj", "q_proj"]
    assert {line.get_label() for line in spectrum.lines} == {"1.self_attn.o_proj", "1.self_attn.q_proj"}
    assert way.images[0].get_array().diagonal().tolist() == pytest.approx([1, 1, 1])


def test_it_is_written_whole(readings, tmp_path):
    save(run_picture(readings, "ΔW & its rank"), tmp_path / "rank.png")
    assert (tmp_path / "rank.png").read_bytes().startswith(b"\x89PNG")
