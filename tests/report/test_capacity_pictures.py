"""Pictures show what records hold: the drawn figures are read back."""

import numpy as np
import pytest

from gemma_bench.core.records import write_record
from gemma_bench.experiments import fine_tune_memorization, layer_capacity, quantized_memory
from gemma_bench.report.capacity_pictures import (
    fine_tune_picture,
    layer_picture,
    quantized_picture,
)
from gemma_bench.report.pictures import write_pictures

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def quantized():
    config = quantized_memory.FIXTURE.model_copy(update={"visits": 60, "seeds": (0,)})
    return quantized_memory.run(config)[0]


@pytest.fixture(scope="module")
def layers():
    return layer_capacity.run(layer_capacity.FIXTURE)[0]


@pytest.fixture(scope="module")
def fine_tune():
    arm = fine_tune_memorization.FIXTURE.arms[0]
    small = {"base_sequences": 640, "reference_sequences": 128, "held_out_sequences": 32, "visits": 10}
    config = fine_tune_memorization.Config(arms=(arm.model_copy(update=small),))
    return next(iter(fine_tune_memorization.run(config)))


def test_the_curve_is_what_rounding_kept(quantized):
    line = quantized_picture(quantized).axes[0].lines[0]
    assert list(line.get_xdata()) == [2, 3, 4, 5, 6, 8]
    assert line.get_ydata()[-1] == pytest.approx(100 * np.median(quantized.kept(8, "fitted", 3.6)))


def test_dots_are_marginals_and_every_cell_is_labelled(layers):
    dots, sensitivity = layer_picture(layers).axes
    assert dots.lines[0].get_ydata() == pytest.approx(layers.marginals()[0])
    assert len(sensitivity.texts) == len(layers.noise_lost_bits_per_parameter)


def test_lines_are_columns_and_courses(fine_tune):
    sizes, course = fine_tune_picture(fine_tune).axes
    assert list(sizes.lines[0].get_ydata()) == pytest.approx(list(fine_tune.memorised_bits_per_sequence))
    assert list(course.lines[0].get_ydata()) == pytest.approx(fine_tune.readings_memorised_bits_per_sequence[0])


def test_only_experiments_with_clean_records_are_drawn(quantized, layers, tmp_path):
    assert list(write_pictures(tmp_path)) == []
    write_record(quantized.model_copy(update={"commit_is_clean": True}), tmp_path)
    write_record(layers.model_copy(update={"commit_is_clean": False}), tmp_path)
    (path,) = write_pictures(tmp_path)
    assert path == tmp_path / "pictures" / "quantized_memory.png"
    assert path.read_bytes().startswith(b"\x89PNG")
