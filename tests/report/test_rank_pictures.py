"""Pictures of low-rank training show what a record or a run holds: the drawn figures are read back."""

import xml.etree.ElementTree as ET

import pytest

from gemma_bench.core.records import write_record
from gemma_bench.experiments import low_rank_training
from gemma_bench.experiments.low_rank_arms import Course
from gemma_bench.measure.rank_evolution import RankReadings
from gemma_bench.measure.spectrum import random_sum
from gemma_bench.report.figures import svg
from gemma_bench.report.pictures import drawn, write_pictures
from gemma_bench.report.rank_pictures import arms_picture, directions_picture, run_picture
from gemma_bench.training.micro import MICRO

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    small = MICRO.model_copy(update={"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 32})
    course = Course(size=small, rows=2, length=16, warm_steps=4, steps=8, warmup_steps=1, held_out_rows=4)
    rates = {f"{arm}_rates": (1e-3, 2e-3, 4e-3) for arm in ("full", "lora", "relora", "matched")}
    knobs = {"rank": 2, "cycles": 4, "rewarm_steps": 1, "seeds": (1, 2), "processes": 1, "most_extensions": 0}
    config = low_rank_training.Config(course=course, **rates, **knobs)
    return next(iter(low_rank_training.run(config, state=tmp_path_factory.mktemp("state"))))


@pytest.fixture
def readings():
    names = [f"model.layers.{layer}.self_attn.{kind}" for layer in (0, 1) for kind in ("q_proj", "o_proj")]
    found = RankReadings(names)
    for step in (10, 20, 30):
        found.read_changes(step, {name: random_sum([1.0] * (step // 10), (16, 12), seed=7) for name in names})
    return found


def test_curves_are_medians_over_seeds_between_their_interval(record):
    loss, rank, *_ = arms_picture(record).axes
    for number, arm in enumerate(record.arms):
        line, band = loss.lines[number], loss.collections[number].get_paths()[0].vertices[:, 1]
        assert list(line.get_xdata()) == [0, *record.read_steps]
        ends = [curve[-1] for curve in record.curve_nats[arm]]
        assert line.get_ydata()[-1] == pytest.approx(sum(ends) / 2)
        assert (band.min(), band.max()) == (pytest.approx(lowest(record, arm)), pytest.approx(highest(record, arm)))
        assert rank.lines[number].get_ydata()[-1] == pytest.approx(sum(c[-1] for c in record.rank[arm]) / 2)


def lowest(record, arm):
    return min(*record.start_nats, *(nats for curve in record.curve_nats[arm] for nats in curve))


def highest(record, arm):
    return max(*record.start_nats, *(nats for curve in record.curve_nats[arm] for nats in curve))


def test_an_arm_that_diverged_is_named_and_has_no_curve(record):
    gone = {"curve_nats": ((), ()), "rank": ((), ()), "effective_rank": ((), ()), "stable_rank": ((), ())}
    nothing = {"singular_values": {}, "effective_rank_of": {}, "trajectory": (), "held_out_nats": (None, None)}
    lost = {name: {**getattr(record, name), "lora": value} for name, value in (gone | nothing).items()}
    broken = record.model_copy(update=lost)
    texts = [text.get_text() for text in arms_picture(broken).axes[0].get_legend().get_texts()]
    assert [text for text in texts if "diverged" in text] == [f"lora, {record.rates['lora']:.2g}, diverged"]
    assert len(directions_picture(broken).axes) == len(directions_picture(record).axes) - 4


def test_every_matrix_and_every_overlap_is_drawn(record):
    ranks, overlaps = directions_picture(record).axes[:2]
    assert ranks.images[0].get_array().shape == (14, len(record.read_steps))
    assert overlaps.images[0].get_array().tolist() == [list(row) for row in record.trajectory["full"]]


def test_a_run_s_picture_shows_its_readings_by_type_and_layer(readings):
    means, ranks, spectrum, way = run_picture(readings, "a run").axes[:4]
    assert means.lines[0].get_ydata().tolist() == [1, 2, 3]
    assert [label.get_text() for label in ranks.get_yticklabels()] == ["o_proj", "q_proj"]
    assert {line.get_label() for line in spectrum.lines} == {"1.self_attn.o_proj", "1.self_attn.q_proj"}
    assert way.images[0].get_array().diagonal().tolist() == pytest.approx([1, 1, 1])


def test_a_fragment_is_svg_and_the_same_every_time(readings):
    one, again = (svg(run_picture(readings, "ΔW & its rank")) for _ in range(2))
    assert one == again
    assert ET.fromstring(one).tag.endswith("svg")  # noqa: S314 - our own
    assert "ΔW &amp; its rank" in one


def test_a_clean_record_is_drawn_twice(record, tmp_path):
    write_record(record.model_copy(update={"commit_is_clean": True}), tmp_path)
    assert [name for name, _ in drawn(tmp_path)] == ["low_rank_training", "low_rank_training_2"]
    paths = list(write_pictures(tmp_path))
    assert [path.name for path in paths] == ["low_rank_training.png", "low_rank_training_2.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
