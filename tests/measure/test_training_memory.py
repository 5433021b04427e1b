"""Forecast on tensors without contents against real ones and against arithmetic; and what makes a step cheaper."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from transformers import TrainerCallback

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure import training_memory
from gemma_bench.measure.tensor_tracker import TensorTracker, model_tensors
from gemma_bench.measure.training_closed_form import closed_form
from gemma_bench.measure.training_memory import KINDS, forecast, measure
from gemma_bench.methods.choice import METHODS, method_named
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.methods.set_block_tuning import SetBlockTuning
from gemma_bench.models.catalog import find
from gemma_bench.models.llama import LLAMAS
from gemma_bench.training.data import Example
from gemma_bench.training.method import Full, Lora
from gemma_bench.training.plan import Plan, Update, trainable_size
from gemma_bench.training.settings import Settings
from gemma_bench.training.step import Training, prepared_model
from gemma_bench.training.trainer import Trainer


def plan(model="tiny", method="lora", rank=4, **knobs):
    return Plan(trainable_size(model), method_named(method, rank), **{"batch_size": 2, "length": 64, **knobs})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_forecast_is_what_a_real_step_takes(method, checkpointing):
    wanted = plan(method=method, checkpointing=checkpointing, dtype="float32")
    foreseen, found = forecast(wanted), measure(wanted)
    assert foreseen.peak_bytes == pytest.approx(found.peak_bytes, rel=0.02)
    for kind in KINDS:
        assert getattr(foreseen, f"{kind}_bytes") == pytest.approx(
            getattr(found, f"{kind}_bytes"), abs=0.05 * found.peak_bytes
        )


@pytest.mark.parametrize("method", ["full", "lora", "rank1"])
def test_a_deep_model_is_foreseen_from_two_shallow_ones_to_the_byte(method):
    wanted = plan(method=method, length=128)
    deep = replace(wanted, size=wanted.size.model_copy(update={"num_hidden_layers": 24}))
    assert training_memory._depths(deep) is not None
    assert training_memory._depths(replace(deep, checkpointing=True)) is None
    assert forecast(deep) == training_memory._highest(training_memory._foreseen(deep))


def test_a_second_step_with_real_gradients_peaks_where_one_with_ready_states_does():
    wanted = plan(method="full", dtype="float32")
    training = Training(prepared_model(wanted, "cpu"), wanted)
    tracker = TensorTracker()
    tracker.adopt((*training.prepared.model.parameters(), *training.prepared.model.buffers()))
    with tracker:
        training.step()
        tracker.reset_peak()
        training.step()
    assert tracker.peak_bytes == pytest.approx(measure(wanted).peak_bytes, rel=0.01)


def test_weights_and_states_are_exact():
    wanted = plan(method="full", dtype="float32")
    found, sums = forecast(wanted), closed_form(wanted)
    parameters = 4 * wanted.size.parameter_count
    assert sums.gradients_bytes == parameters
    assert sums.optimizer_bytes == 2 * parameters
    assert found.weights_bytes == pytest.approx(parameters, rel=0.02)
    assert found.optimizer_bytes == pytest.approx(2 * parameters, rel=0.02)


@pytest.mark.parametrize(("method", "rank"), [("full", 8), ("relora", 128), ("lora", 16)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_arithmetic_agrees_with_the_forecast(method, rank, checkpointing):
    wanted = plan("llama-130m", method, rank, batch_size=4, length=512, checkpointing=checkpointing)
    assert closed_form(wanted).peak_bytes == pytest.approx(forecast(wanted).peak_bytes, rel=0.06)


def test_arithmetic_counts_the_copies_that_autocast_keeps():
    wanted = Plan.as_trained(trainable_size("llama-60m"), Full(), dtype="bfloat16", length=64)
    assert closed_form(wanted).peak_bytes == pytest.approx(forecast(wanted).peak_bytes, rel=0.06)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_arithmetic_counts_the_copies_of_weights_that_are_not_trained(checkpointing):
    method, size = method_named("relora", 8), trainable_size("270m")
    wanted = Plan.as_trained(size, method, dtype="bfloat16", length=64, checkpointing=checkpointing)
    assert wanted.autocast
    assert closed_form(wanted).peak_bytes == pytest.approx(forecast(wanted).peak_bytes, rel=0.06)


@pytest.mark.parametrize("method", ["full", "lora", "rank1"])
@pytest.mark.parametrize("passes", [2, 5])
def test_a_forecast_has_what_a_method_keeps_of_every_pass(method, passes):
    wanted = plan(method=method, dtype="float32", gradient_accumulation=passes)
    assert forecast(wanted).peak_bytes == pytest.approx(measure(wanted).peak_bytes, rel=0.02)


def test_a_step_in_which_a_rule_looks_at_gradients_is_foreseen_however_rare():
    knobs = {"batch_size": 4, "length": 64, "gradient_accumulation": 2}
    always, rarely = (Plan(trainable_size("tiny"), RankOne(merge_freq=interval), **knobs) for interval in (1, 2))
    assert forecast(rarely).peak_bytes == pytest.approx(forecast(always).peak_bytes, rel=0.001)
    assert forecast(rarely).peak_bytes == pytest.approx(measure(rarely).peak_bytes, rel=0.02)


def test_the_knobs_save_memory_in_the_order_they_should():
    base = plan("270m", "full", length=256)
    cheaper = [
        plan("270m", "full", length=256, checkpointing=True),
        plan("270m", "lora", 8, length=256, checkpointing=True),
        plan("270m", "lora", 8, length=256, checkpointing=True, batch_size=1),
    ]
    peaks = [forecast(one).peak_bytes for one in (base, *cheaper)]
    assert all(later < earlier for earlier, later in pairwise(peaks))


def test_exact_merges_cost_two_bytes_a_weight():
    with_remainders, without = (forecast(plan(method="relora", exact_merges=exact)) for exact in (True, False))
    matrices = sum(
        rows * columns for name, (rows, columns) in trainable_size("tiny").matrix_shapes().items() if "proj" in name
    )
    assert with_remainders.weights_bytes - without.weights_bytes == 2 * matrices


@pytest.mark.parametrize("name", LLAMAS)
def test_the_published_llamas_have_their_modules_parameters(name):
    model = prepared_model(plan(name, "full"), "meta").model
    assert sum(parameter.numel() for parameter in model.parameters()) == LLAMAS[name].parameter_count


def test_nothing_is_allocated_for_12b():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = forecast(plan("12b", "lora", 16, batch_size=1, length=128))
    assert found.weights_bytes > 20 * 2**30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "KiB"


def test_a_tracker_counts_by_kind_and_relabels():
    tracker = TensorTracker("weights")
    kept = torch.zeros(100)
    tracker.adopt([kept])
    with tracker:
        tracker.kind = "activations"
        made = kept + 1
        tracker.relabel([made], "gradients")
    assert tracker.at_peak == {"weights": 400, "activations": 400}
    tracker.reset_peak()
    assert tracker.at_peak == {"weights": 400, "activations": 0, "gradients": 400}
    del made
    assert tracker.live_bytes == 400


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"length": 1}, "length must be between 2 and 512 for tiny, got 1"),
        ({"length": 4096}, "length must be between 2 and 512 for tiny, got 4096"),
        ({"dtype": "float16"}, "unknown training precision 'float16', expected one of bfloat16, float32"),
        ({"method": "qlora"}, "unknown method 'qlora', expected one of full, lora, relora, rank1"),
        ({"model": "13b"}, "unknown model '13b', expected one of tiny"),
    ],
)
def test_what_no_run_could_be_is_refused(knobs, message):
    with pytest.raises(BadInputError, match=message):
        plan(**knobs)


def test_a_rank_without_room_is_refused():
    with pytest.raises(BadInputError, match="rank must be between 1 and 32, got 64"):
        forecast(plan(rank=64))


RUNS = {
    "full, accumulated": (Full(), {"gradient_accumulation": 3}, 0.1),
    "lora, checkpointed": (Lora(rank=4), {"checkpointing": True}, 0.1),
    "relora after a warm start": (ReLoRA(rank=4, warm_start_steps=3), {}, 0.1),
    "rank1": (RankOne(), {}, 0.1),
    "error feedback": (RankOne(rule="error_feedback"), {}, 0.1),
    "sbd of adapters": (SetBlockTuning(mask_token=3, rank=4), {}, 0.2),
}
"""Set blocks hide as many tokens as chance wants."""


@pytest.mark.parametrize(("method", "knobs", "tolerance"), RUNS.values(), ids=RUNS)
def test_a_forecast_is_what_our_trainer_takes(method, knobs, tolerance):
    """The control is a run of the trainer itself, counted from its second step on."""
    settings = Settings(iters=3, batch_size=4, **knobs)
    wanted = Plan(find("tiny"), method, 4, 96, "float32", loss_in_pieces=True, update=Update(fused=False), **knobs)
    torch.manual_seed(0)
    model = prepared_model(replace(wanted, method=Full(), checkpointing=False), "cpu").model
    tracker = TensorTracker()
    trainer = Trainer(method.prepare(model, settings), rows(12, 96), settings, callbacks=[FromSecondStep(tracker)])
    tracker.adopt(model_tensors(trainer.model))
    with tracker:
        trainer.train()
    assert forecast(wanted).peak_bytes == pytest.approx(tracker.peak_bytes, rel=tolerance)


class FromSecondStep(TrainerCallback):
    """Starts a tracker's peak anew after the first step."""

    def __init__(self, tracker):
        self.tracker = tracker

    def on_step_end(self, args, state, control, **more):  # noqa: ARG002
        if state.global_step == 1:
            self.tracker.reset_peak()


def rows(count, length):
    return [Example(torch.randint(10, 200, (length,)).tolist()) for _ in range(count)]
