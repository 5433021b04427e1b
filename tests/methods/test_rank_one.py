"""Rank-1 steps: what each rule adds to the weights."""

import pytest
import torch

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.methods.rank_one import RULES, RankOne, random_a, top_pair
from gemma_bench.training.adapters import layers
from gemma_bench.training.gradients import GradientFactors
from gemma_bench.training.micro import micro_model
from gemma_bench.training.settings import Settings
from gemma_bench.training.trainer import fit

ONE = Settings(iters=1, learning_rate=0.5, batch_size=2, clip_norm=0.0)


def gradients(rows, batches):
    """The gradients of the plain model's matrices over these rows, by full-rank autograd."""
    model = micro_model(seed=0)
    for indices in batches:
        batch = rows.collate(rows.__getitems__(indices))
        (model(**batch).loss / len(batches)).backward()
    return {name.removesuffix(".weight"): p.grad for name, p in model.named_parameters()}


def seen_rows(rows, settings):
    from gemma_bench.training.order import Order

    return list(Order(len(rows), settings.batch_size, settings.gradient_accumulation, settings.seed))


def change_of(model):
    start = micro_model(seed=0).state_dict()
    return {
        name: layer.get_base_layer().weight.detach() - start[f"{name}.weight"] for name, layer in layers(model).items()
    }


def test_a_random_step_is_minus_the_gradient_times_a_a(micro, rows):
    """ΔW = −η·G·a·aᵀ, with the a that the rule drew."""
    prepared = RankOne(rule="random_a").prepare(micro, ONE)
    again = torch.Generator().manual_seed(ONE.seed + 1)
    drawn = {}
    for name, layer in layers(prepared.model).items():
        random_a(layer, again)
        random_a(layer, again)
        drawn[name] = layer.lora_A["default"].weight.detach().clone()
    trainer = fit(micro_model(seed=0), RankOne(rule="random_a"), rows, ONE)
    expected = gradients(rows, seen_rows(rows, ONE))
    for name, change in change_of(trainer.model).items():
        a = drawn[name]
        torch.testing.assert_close(change, -0.5 * expected[name] @ a.T @ a, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_top_pair_is_the_gradient_s_own(micro, rows, accumulation, monkeypatch):
    """With enough power steps the change is −η·σ₁·u₁·v₁ᵀ of the gradient over all batches of the step."""
    monkeypatch.setattr("gemma_bench.methods.rank_one._POWER_STEPS", 200)
    settings = ONE.model_copy(update={"gradient_accumulation": accumulation})
    trainer = fit(micro, RankOne(rule="top_pair"), rows, settings)
    expected = gradients(rows, seen_rows(rows, settings))
    for name, change in change_of(trainer.model).items():
        u, s, v = torch.linalg.svd(expected[name])
        best = -0.5 * s[0] * torch.outer(u[:, 0], v[0])
        assert (change - best).norm() < 0.02 * best.norm()


def test_three_power_steps_from_a_good_guess_are_enough():
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(50, 8, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(30, 8, generator=generator))
    matrix = u @ torch.diag(torch.tensor([4.0, 2, 1, 1, 0.5, 0.2, 0.1, 0.1])) @ v.T
    step, right = top_pair(matrix.mv, matrix.T.mv, v[:, 0] + 0.3 * v[:, 1])
    assert torch.outer(step, right).sub(4 * torch.outer(u[:, 0], v[:, 0])).norm() < 0.05
    nothing, guess = top_pair(torch.zeros(50, 30).mv, torch.zeros(30, 50).mv, v[:, 0])
    assert torch.equal(guess, v[:, 0])
    assert nothing.abs().max() == 0


def test_error_feedback_loses_nothing(micro, rows, monkeypatch):
    """What was added to the weights and what is left over are together the whole descent: −Σ η·G."""
    total = {}
    whole = GradientFactors.whole

    def noted(self, name, dtype):
        found = whole(self, name, dtype)
        total[name] = total.get(name, 0) + found.clone()
        return found

    monkeypatch.setattr(GradientFactors, "whole", noted)
    settings = Settings(iters=5, learning_rate=0.5, batch_size=2, min_rate_ratio=1.0, clip_norm=0.0)
    trainer = fit(micro, RankOne(rule="error_feedback"), rows, settings)
    left = trainer.prepared.callbacks[0].aim.state
    for name, change in change_of(trainer.model).items():
        torch.testing.assert_close(left[name] - change, 0.5 * total[name], rtol=1e-3, atol=1e-5)
        assert left[name].norm() > 0
        assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 5


def test_a_sign_step_moves_every_row_by_the_rate_along_a(micro, rows):
    """Fresh Adam divides the gradient by its own size: ΔW = −η·sign(G·a)·aᵀ, up to Adam's epsilon."""
    settings = Settings(iters=1, learning_rate=0.01, batch_size=2, clip_norm=0.0)
    trainer = fit(micro, RankOne(rule="sign", keep_change=True), rows, settings)
    for part in trainer.prepared.callbacks[0].change.matrices.values():
        b, a = part.factors()
        assert b.abs().max() <= 0.01 + 1e-6
        assert b.abs().median() > 0.0099
        assert a.shape[0] == 1


@pytest.mark.parametrize("rule", RULES)
def test_rank_grows_by_one_a_step(micro, rows, rule):
    settings = Settings(iters=6, learning_rate=0.01, batch_size=2)
    trainer = fit(micro, RankOne(rule=rule, keep_change=True), rows, settings)
    ranks = {int(torch.linalg.matrix_rank(p.matrix())) for p in trainer.prepared.callbacks[0].change.matrices.values()}
    assert ranks == {6}


def test_a_longer_interval_merges_less_often(micro, rows):
    settings = Settings(iters=7, learning_rate=0.01, batch_size=2)
    trainer = fit(micro, RankOne(rule="top_pair", merge_freq=3, keep_change=True), rows, settings)
    (merges,) = trainer.prepared.callbacks
    assert {int(torch.linalg.matrix_rank(part.matrix())) for part in merges.change.matrices.values()} == {2}
    now = merges.change.with_adapters(layers(trainer.model))
    assert {int(torch.linalg.matrix_rank(part.matrix())) for part in now.values()} == {3}
    assert not any(layer.disable_adapters for layer in layers(trainer.model).values())


def test_random_b_leaves_b_and_draws_it_anew(micro, rows):
    settings = Settings(iters=2, learning_rate=0.01, batch_size=2)
    trainer = fit(micro, RankOne(rule="random_b"), rows, settings)
    for layer in layers(trainer.model).values():
        assert layer.lora_A["default"].weight.abs().max() == 0
        assert layer.lora_B["default"].weight.std() > 0.5


def test_gradients_are_those_of_the_weights(micro, rows):
    """What the hooks keep multiplies to the gradient that full-rank autograd finds; after `stop` nothing is kept."""
    from gemma_bench.training.adapters import attach

    adapted, watch = attach(micro, 1), GradientFactors()
    watch.watch(layers(adapted))
    batch = rows.collate(rows.__getitems__([0, 1]))
    for watching in (False, True):
        watch.is_watching = watching
        adapted(**batch).loss.backward()
    expected = gradients(rows, [[0, 1]])
    for name in layers(adapted):
        torch.testing.assert_close(watch.whole(name), expected[name], rtol=1e-3, atol=1e-6)
        rounded = watch.whole(name, torch.bfloat16)
        assert 1e-4 < (rounded - expected[name]).norm() / expected[name].norm() < 1e-2
    watch.stop()
    adapted(**batch).loss.backward()
    with pytest.raises(KeyError):
        watch.whole(name)


@pytest.mark.parametrize("rule", ["top_pair", "error_feedback", "error_feedback_bf16"])
def test_a_gradient_that_is_no_number_reaches_no_weight(micro, rows, rule, monkeypatch):
    """The loss is one still; hooks alone see the gradient."""
    seen = GradientFactors.of
    monkeypatch.setattr(GradientFactors, "of", lambda self, name: [part * torch.nan for part in seen(self, name)])
    with pytest.raises(InvalidRunError, match="gradient's norm became nan in step 1"):
        fit(micro, RankOne(rule=rule), rows, ONE)
    assert all(weight.isfinite().all() for weight in change_of(micro).values())


@pytest.mark.parametrize("rule", ["error_feedback", "error_feedback_bf16"])
def test_error_feedback_merges_at_every_step(micro, rule):
    with pytest.raises(BadInputError, match="merge freq must be 1 with error feedback, got 2"):
        RankOne(rule=rule, merge_freq=2).prepare(micro, ONE)
