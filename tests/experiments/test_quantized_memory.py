"""What rounding leaves of a memory: relations that hold whatever the numbers are."""

from unittest.mock import patch

import pytest
import torch

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.experiments import quantized_memory
from gemma_bench.experiments.quantized_memory import FIXTURE, run

SMALL = FIXTURE.model_copy(update={"visits": 100, "seeds": (0,), "fill_ratios": (0.9, 3.6)})


@pytest.fixture(scope="module")
def record():
    (found,) = run(SMALL)
    return found


def test_a_row_for_every_way_to_round_every_model(record):
    assert len(record.samples) == 1 * 2 * 2 * 6
    assert set(record.stored_bits_per_weight) == {bits + 0.5 for bits in FIXTURE.bits}
    assert len(record.kept(4, "fitted", 3.6)) == 1


@pytest.mark.parametrize("fill", [0.9, 3.6])
@pytest.mark.parametrize("rounding", ["min max", "fitted"])
def test_fewer_bits_keep_less(record, fill, rounding):
    kept = [record.kept(bits, rounding, fill)[0] for bits in (8, 5, 3, 2)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 0.9
    assert kept[-1] < 0.1


def test_errors_count_against_a_rounded_model_only_when_signed(record):
    for kept, signed in zip(record.kept_ratio, record.signed_kept_ratio, strict=True):
        assert kept >= 0
        assert signed <= kept + 0.01
    assert min(record.signed_kept_ratio) < 0


def test_rounding_to_what_is_there_keeps_all():
    exact = patch.dict(quantized_memory.ROUNDINGS, {"min max": _unrounded, "fitted": _unrounded})
    with exact:
        (found,) = run(SMALL.model_copy(update={"fill_ratios": (0.9,)}))
    assert found.kept_ratio == pytest.approx([1] * 12)


class _Same:
    def __init__(self, weights):
        self.weights = weights

    def values(self):
        return self.weights


def _unrounded(weights, bits, group_size):  # noqa: ARG001
    return _Same(weights.clone())


def test_norms_stay():
    weights = torch.randn(FIXTURE.shape.parameter_count)
    rounded = quantized_memory._rounded(FIXTURE, weights, quantized_memory.ROUNDINGS["fitted"], 2)
    changed = (weights != rounded).float().mean()
    matrices = sum(torch.Size(size).numel() for size in FIXTURE.shape.tensors.values() if len(size) > 1)
    assert changed == pytest.approx(matrices / len(weights), abs=0.01)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds must be at least 1, got 0"),
        ({"fill_ratios": (0.001,)}, "data must be at least 1 sequence, got 0.001 bits per parameter"),
        ({"bits": (4, 9)}, r"bits must be between 1 and 8, got \[4, 9\]"),
        ({"group_size": 48}, "group size must divide every matrix, got 48 for embedding"),
        ({"batch_size": 0}, "batch must be at least 1, got 0"),
        ({"symbols": 1}, "symbols must be at least 2, got 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, message):
    with pytest.raises(BadInputError, match=message):
        run(SMALL.model_copy(update=fields))


def test_a_run_that_blew_up_is_no_evidence():
    with pytest.raises(InvalidRunError, match="seed 0"):
        run(SMALL.model_copy(update={"rate": 30.0}))


def test_a_model_that_holds_nothing_is_no_evidence():
    with pytest.raises(InvalidRunError, match="memorised nothing") as caught:
        run(SMALL.model_copy(update={"rate": 0.0}))
    assert caught.value.rule == "too short"
