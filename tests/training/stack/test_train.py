"""Training a stack: each arm as if alone, killed and resumed to the same bits, diverged arms named, memory foretold."""

import numpy as np
import pytest
import torch

from gemma_bench.core.errors import BadInputError, DamagedFileError, UnavailableError
from gemma_bench.measure.tensor_tracker import TensorTracker
from gemma_bench.training.stack import train as training_module
from gemma_bench.training.stack.arms import Arm, Training, Visits, scales, steps_for
from gemma_bench.training.stack.divergence import divergence
from gemma_bench.training.stack.exchange import to_transformers
from gemma_bench.training.stack.kernels import KERNELS
from gemma_bench.training.stack.room import check_room, model_bytes
from gemma_bench.training.stack.shape import gemma3, gpt2, random_weights
from gemma_bench.training.stack.stepper import Stepper
from gemma_bench.training.stack.train import train

SMALL = gemma3(16, 1, symbols=16, length=8, hidden=24)
TRAINING = Training(batch=8, warmup_steps=5)


def data(*counts, shape=SMALL):
    return [np.random.default_rng(n).integers(shape.symbols, size=(n, shape.length + 1)) for n in counts]


def test_a_stack_gives_each_arm_what_it_gets_alone():
    arms = [Arm(0, 0.02, 120), Arm(1, 0.01, 80), Arm(2, 0.02, 100)]
    sets = data(10, 20, 30)
    together = train(SMALL, arms, sets, TRAINING)
    for arm, sequences, among in zip(arms, sets, together, strict=True):
        (alone,) = train(SMALL, [arm], [sequences], TRAINING)
        torch.testing.assert_close(alone.weights, among.weights, atol=1e-4, rtol=1e-3)
        assert among.steps == arm.steps
        assert among.is_finished
        assert among.diverged is None


def test_ten_steps_are_those_of_torch_s_adamw():
    """The same sequences in the same order through transformers and torch's own optimiser."""
    (sequences,) = data(20)
    arm = Arm(0, 0.01, 10)
    (found,) = train(SMALL, [arm], [sequences], TRAINING)
    model = to_transformers(random_weights(SMALL, 0), SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0)
    for step in range(10):
        batch = torch.from_numpy(sequences[Visits(20, 0).take(8 * step, 8)])
        rate = scales([arm], TRAINING, step, 1)[0, 0, 0] * (1 - 0.9 ** (step + 1))
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        logits = model(input_ids=batch[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:]).backward()
        optimizer.step()
    logits = model(input_ids=batch[:, :-1]).logits.log_softmax(-1).detach()
    expected = -logits.gather(-1, batch[:, 1:, None])[..., 0]
    np.testing.assert_allclose(found.scorer(SMALL)(batch.numpy()), expected, atol=2e-3)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    arms, sets = [Arm(0, 0.02, 60), Arm(1, 0.02, 45)], data(10, 20)
    whole = train(SMALL, arms, sets, TRAINING)
    monkeypatch.setattr(training_module, "_SAVE_EVERY_S", 0.0)
    seen = []

    def killer(_what, done, _total):
        seen.append(done)
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, arms, sets, TRAINING, state=tmp_path, progress=killer)
    resumed = train(SMALL, arms, sets, TRAINING, state=tmp_path)
    assert 0 < seen[-1] < 60
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one.weights, other.weights)
        assert one.curve == other.curve


def test_state_of_another_run_is_refused_and_damage_is_named(tmp_path):
    train(SMALL, [Arm(0, 0.02, 10)], data(10), TRAINING, state=tmp_path)
    with pytest.raises(BadInputError, match="another configuration"):
        train(SMALL, [Arm(0, 0.03, 10)], data(10), TRAINING, state=tmp_path)
    (tmp_path / "stack.pt").write_bytes(b"PK half a file")
    with pytest.raises(DamagedFileError, match="remove it to start anew"):
        train(SMALL, [Arm(0, 0.02, 10)], data(10), TRAINING, state=tmp_path)


def test_a_rate_that_is_too_high_is_divergence_and_no_neighbour_s_fault():
    good, bad = train(SMALL, [Arm(0, 0.02, 300), Arm(0, 1e30, 300)], data(10, 10), TRAINING)
    assert good.diverged is None
    assert good.curve[-1] < 0.5
    assert "no number" in bad.diverged


@pytest.mark.parametrize(
    ("curve", "found"),
    [
        ([4.2, 3.0, 2.0, 1.0], None),
        ([4.2, 4.16, 4.17, 4.16], None),
        ([4.2, 2.0, 1.0, 3.5, 1.2], "climbed from 1.000 back to 3.500"),
        ([4.2, 2.0, float("nan")], "no number"),
        ([4.2, 2.0, 1.0, 1.5], "ended at 1.500"),
        ([4.1, 3.98, 3.992], None),
    ],
)
def test_what_counts_as_divergence(curve, found):
    reason = divergence(curve, 4.16)
    assert (reason is None) if found is None else (found in reason)


def test_clipping_bounds_each_model_by_itself():
    """A neighbour with a huge gradient changes nothing for a model whose own gradient is below the bound."""
    sets = data(12, 12)
    clipped = TRAINING.model_copy(update={"clip": 1e6})
    free, bound = (train(SMALL, [Arm(0, 0.02, 20), Arm(1, 0.02, 20)], sets, with_) for with_ in (TRAINING, clipped))
    torch.testing.assert_close(free[0].weights, bound[0].weights)
    sequences, bounded = torch.from_numpy(sets[0]), TRAINING.model_copy(update={"clip": 1e-3})
    stepper = Stepper(SMALL, bounded, random_weights(SMALL, 0)[None], sequences, "cpu")
    stepper.step(torch.arange(8)[None], torch.tensor([[0.0, 1.0]]))
    assert stepper.first.norm() / 0.1 == pytest.approx(1e-3, rel=1e-3)


def test_denormal_numbers_are_zero_in_training_only(monkeypatch):
    seen, step = [], Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda *given: (seen.append(_is_flushed()), step(*given))[1])
    train(SMALL, [Arm(0, 0.01, 2)], data(8), TRAINING)
    assert seen == [True] * 2
    assert not _is_flushed()


def _is_flushed() -> bool:
    return (torch.tensor([1e-30]) * 1e-10).item() == 0


def test_frozen_tensors_keep_their_values_and_the_others_do_not():
    free, frozen = train(SMALL, [Arm(0, 0.02, 20), Arm(0, 0.02, 20, ("0.", "norm"))], data(12, 12), TRAINING)
    start, embedding = random_weights(SMALL, 0), 16 * 16
    assert torch.equal(frozen.weights[embedding:], start[embedding:])
    assert not torch.equal(frozen.weights[:embedding], start[:embedding])
    assert not torch.equal(free.weights[embedding:], start[embedding:])


def test_every_round_visits_every_sequence_once():
    visits = Visits(7, seed=3)
    rounds = visits.take(0, 7 * 20_000).reshape(-1, 7)
    assert (np.sort(rounds, axis=1) == np.arange(7)).all()
    assert len(np.unique(rounds[:50], axis=0)) > 40
    assert np.array_equal(Visits(7, seed=3).take(65_000, 900), visits.take(65_000, 900))
    assert steps_for(300, 64, 32) == 600


def test_the_rate_warms_up_and_falls_to_zero():
    rates = scales([Arm(0, 0.1, 100)], Training(warmup_steps=10), 0, 100)[:, 0, 0] * (1 - 0.9 ** torch.arange(1, 101))
    assert rates.argmax() == 10
    assert rates[10] == pytest.approx(0.1, rel=0.05)
    assert rates[-1] < 1e-4


@pytest.mark.parametrize("kernels", ["c", "torch"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "pure bfloat16"])
@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        (gemma3(32, 2, symbols=512, length=32, hidden=96), 16),
        (gpt2(32, 1, symbols=2048, length=64, heads=4), 32),
        (gemma3(16, 1, symbols=20_000, length=16, hidden=40), 8),
    ],
    ids=["deep", "many logits", "large table"],
)
def test_memory_is_foretold_and_linear_in_the_stack(shape, batch, precision, kernels, monkeypatch):
    if kernels == "torch":
        monkeypatch.setattr(KERNELS, "load", lambda: None)
    training = Training(batch=batch, precision=precision)
    each = model_bytes(shape, training)
    for models in (1, 3):
        tracker = TensorTracker()
        with tracker:
            weights = torch.stack([random_weights(shape, seed) for seed in range(models)])
            tokens = torch.zeros(batch, shape.length + 1, dtype=torch.int64)
            stepper = Stepper(shape, training, weights, tokens, "cpu")
            chosen = torch.zeros(models, batch, dtype=torch.int64)
            tracker.reset_peak()
            stepper.step(chosen, torch.ones(models, 2))
        assert tracker.peak_bytes == pytest.approx(models * each, rel=0.2)


def test_a_stack_without_room_is_refused_with_the_largest_that_fits():
    each = model_bytes(SMALL, TRAINING)
    with pytest.raises(UnavailableError, match="the largest stack that fits has 7 models") as refused:
        check_room(9, SMALL, TRAINING, "cpu", free=lambda _: 7 * each + each // 2)
    assert refused.value.missing == "memory"


def test_a_budget_cuts_all_plans_by_one_factor():
    sets = data(10, 10)
    cut = train(SMALL, [Arm(0, 0.02, 100_000), Arm(1, 0.02, 50_000)], sets, TRAINING, seconds=0.5)
    assert 0 < cut[0].steps <= cut[0].arm.steps < 50_000
    assert cut[0].arm.steps == pytest.approx(2 * cut[1].arm.steps, abs=2)
    assert cut[1].curve[-1] < cut[1].curve[0]


@pytest.mark.parametrize(
    ("arms", "sets", "message"),
    [
        ([], [], "every arm needs its data, got 0 arms"),
        ([Arm(0, 0.1, 0)], data(4), "steps must be at least 1, got 0"),
        ([Arm(0, -1.0, 5)], data(4), "a learning rate must be at least 0"),
        ([Arm(0, 0.1, 5)], [np.zeros((0, 9), int)], "data must be at least 1 sequence of 9 tokens"),
        ([Arm(0, 0.1, 5)], [np.zeros((3, 2), int)], "data must be at least 1 sequence of 9 tokens"),
        ([Arm(0, 0.1, 5)], [np.full((3, 9), 16)], "tokens must be between 0 and 15, got 16"),
    ],
)
def test_what_cannot_be_trained_is_refused(arms, sets, message):
    with pytest.raises(BadInputError, match=message):
        train(SMALL, arms, sets, TRAINING)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "int8"}, "unknown precision 'int8'"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"clip": 0.0}, "clip must be above 0"),
    ],
)
def test_a_training_that_means_nothing_is_refused(fields, message):
    with pytest.raises(BadInputError, match=message):
        train(SMALL, [Arm(0, 0.1, 5)], data(4), Training(**fields))


@pytest.mark.parametrize("wrong", ["visits", "sequences", "batch"])
def test_steps_of_nothing_are_refused(wrong):
    with pytest.raises(BadInputError, match=f"{wrong} must be at least 1, got 0"):
        steps_for(**{"visits": 3, "sequences": 4, "batch": 2, wrong: 0})
