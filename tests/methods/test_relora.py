"""ReLoRA: its schedule, its merges, what it forgets, and its warm start."""

import math

import pytest
import torch

from gemma_bench.methods.relora import ReLoRA, jagged_cosine
from gemma_bench.training.adapters import adapter_parameters, layers
from gemma_bench.training.method import Full, Lora, all_adapter_parameters
from gemma_bench.training.moments import prune_moments, reset_moments
from gemma_bench.training.schedule import cosine
from gemma_bench.training.settings import Settings
from gemma_bench.training.trainer import fit

SETTINGS = Settings(iters=100, learning_rate=1e-3, warmup_steps=10, min_rate_ratio=0.1)


def test_the_cosine_climbs_and_falls():
    share = cosine(SETTINGS)
    assert [share(step) for step in (0, 5, 10)] == [0, 0.5, 1]
    assert share(55) == pytest.approx(0.55)
    assert share(100) == share(1000) == pytest.approx(0.1)


def test_the_jagged_schedule_is_the_cosine_with_teeth():
    method = ReLoRA(reset_interval=20, rewarm_steps=4)
    share, plain = jagged_cosine(SETTINGS, method), cosine(SETTINGS)
    for step in range(100):
        since = step % 20
        tooth = step >= 20 and since < 4
        assert share(step) == pytest.approx(since / 4 * plain(step - since + 4) if tooth else plain(step))
    assert [share(step) for step in (20, 40, 60, 80)] == [0, 0, 0, 0]


def test_after_a_warm_start_the_adapters_climb_from_zero():
    method = ReLoRA(reset_interval=20, rewarm_steps=4, warm_start_steps=30)
    share, plain = jagged_cosine(SETTINGS, method), cosine(SETTINGS)
    assert [share(step) for step in (30, 50, 70, 90)] == [0, 0, 0, 0]
    assert share(34) == plain(34)
    assert share(40) == plain(40)


def test_adapters_learn_at_twice_the_full_rank_rate(micro):
    group, *rest = ReLoRA(reset_interval=20).prepare(micro, SETTINGS).groups
    assert not rest
    assert max(map(group.schedule, range(100))) == 2
    assert {id(parameter) for parameter in group.parameters} == {id(p) for p in all_adapter_parameters(micro)}


@pytest.fixture
def trained(micro, rows):
    """Three cycles of four steps, and two more: the first one after a merge has rate zero."""
    method = ReLoRA(rank=2, reset_interval=4, rewarm_steps=1)
    return fit(micro, method, rows, Settings(iters=14, learning_rate=5e-3, batch_size=2))


def test_rank_grows_by_the_adapters_with_every_cycle(trained):
    (restarts,) = trained.prepared.callbacks
    found = layers(trained.model)
    merged = {name: int(torch.linalg.matrix_rank(part.matrix())) for name, part in restarts.change.matrices.items()}
    now = restarts.change.with_adapters(found)
    assert set(merged.values()) == {6}
    assert {int(torch.linalg.matrix_rank(part.matrix())) for part in now.values()} == {8}


def test_a_merge_changes_no_output_and_forgets_only_the_adapters_moments(micro, rows, moment):
    method = ReLoRA(rank=2, reset_interval=5, rewarm_steps=1, embeddings=True)
    trainer = fit(micro, method, rows, Settings(iters=4, learning_rate=5e-3, batch_size=2))
    model, optimizer, (restarts,) = trainer.model, trainer.optimizer, trainer.prepared.callbacks
    batch = rows.collate(rows.__getitems__([3, 5]))
    adapters = {id(parameter) for parameter in all_adapter_parameters(model)}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in adapters]
    before = [optimizer.state[parameter]["exp_avg"].clone() for parameter in others]
    with torch.no_grad():
        logits = model(**batch).logits
        restarts.after_step(moment(5, model, optimizer))
        assert (model(**batch).logits - logits).abs().max() < 1e-5
    for layer in layers(model).values():
        b, a = adapter_parameters(layer)
        assert b.abs().max() == 0
        for parameter in (b, a):
            assert all(float(value.abs().max()) == 0 for value in optimizer.state[parameter].values())
    assert len(others) == 1 + 3 * 6 + 1  # the tied embedding, six norms a layer, the last norm
    assert all(torch.equal(optimizer.state[p]["exp_avg"], was) for p, was in zip(others, before, strict=True))
    assert all(was.abs().max() > 0 for was in before)


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_pruning_takes_the_same_entries_from_both_moments(share):
    generator = torch.Generator().manual_seed(0)
    pruned, left = (torch.nn.Parameter(torch.zeros(30, 40)) for _ in range(2))
    optimizer = torch.optim.AdamW([pruned, left], 1e-3)
    for parameter in (pruned, left):
        parameter.grad = torch.randn(30, 40, generator=generator)
    optimizer.step()
    before = {key: value.clone() for key, value in optimizer.state[pruned].items()}
    untouched = {key: value.clone() for key, value in optimizer.state[left].items()}
    prune_moments(optimizer, [pruned], share)
    after = optimizer.state[pruned]
    first, second = after["exp_avg"] != 0, after["exp_avg_sq"] != 0
    assert torch.equal(first, second)
    assert int(first.sum()) == round(1200 * (1 - share))
    assert torch.equal(after["exp_avg"][first], before["exp_avg"][first])
    assert before["exp_avg"][first].abs().min() >= before["exp_avg"][~first].abs().max()
    assert after["step"] == before["step"]
    assert all(torch.equal(optimizer.state[left][key], value) for key, value in untouched.items())
    reset_moments(optimizer, [pruned])
    assert all(float(value.abs().max()) == 0 for value in optimizer.state[pruned].values())
    reset_moments(torch.optim.SGD([left], 0.1), [left])


def test_a_warm_start_is_full_rank_training_and_hands_over(micro, rows):
    """In the warm start only the weights learn, bit for bit as without adapters; from then on only the adapters."""
    from gemma_bench.training.micro import micro_model

    # unclipped: a norm over the gradients rounds as they are ordered, which adapters change
    settings = Settings(iters=6, learning_rate=1e-3, batch_size=2, clip_norm=0)
    full = fit(micro_model(seed=0), Full(), rows, settings).model.state_dict()
    method = ReLoRA(rank=2, reset_interval=20, rewarm_steps=0, warm_start_steps=6)
    trainer = fit(micro, method, rows, settings)
    for name, layer in layers(trainer.model).items():
        torch.testing.assert_close(layer.get_base_layer().weight, full[f"{name}.weight"], rtol=0, atol=0)
        assert adapter_parameters(layer)[0].abs().max() == 0
        assert not layer.get_base_layer().weight.requires_grad
    assert len(trainer.optimizer.state) == 0
    assert {id(p) for p in trainer.model.parameters() if p.requires_grad} == {
        id(p) for p in all_adapter_parameters(trainer.model)
    }


def test_lora_never_touches_the_weights(micro, rows):
    before = {name: tensor.clone() for name, tensor in micro.state_dict().items()}
    model = fit(micro, Lora(rank=2), rows, Settings(iters=3, learning_rate=1e-2, batch_size=2)).model
    for name, layer in layers(model).items():
        assert torch.equal(layer.get_base_layer().weight, before[f"{name}.weight"])
        assert adapter_parameters(layer)[0].abs().max() > 0


def test_rates_are_what_the_optimizer_gets(micro, rows):
    from transformers import TrainerCallback

    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_, **run):
            seen.append(run["optimizer"].param_groups[0]["lr"])

    settings = Settings(iters=8, learning_rate=1e-3, batch_size=2, warmup_steps=2)
    method = ReLoRA(rank=2, reset_interval=4, rewarm_steps=2)
    fit(micro, method, rows, settings, callbacks=[Watch()])
    expected = [2e-3 * jagged_cosine(settings, method)(step) for step in range(8)]
    assert seen == pytest.approx(expected)
    assert seen[4] == 0
    assert math.isclose(max(seen), 2e-3)


def test_what_was_merged_is_not_kept_where_nobody_reads_it(micro, rows):
    """Without the sum of merges a run holds no second copy of a matrix, and trains the same."""
    from gemma_bench.training.micro import micro_model

    settings = Settings(iters=9, learning_rate=1e-3, batch_size=2)
    kept, unread = (ReLoRA(rank=2, reset_interval=3, rewarm_steps=1, keep_change=keep) for keep in (True, False))
    one, other = fit(micro, kept, rows, settings), fit(micro_model(seed=0), unread, rows, settings)
    assert one.prepared.callbacks[0].state_dict()["change"]
    assert not other.prepared.callbacks[0].state_dict()["change"]
    assert other.prepared.change is None
    for found, expected in zip(other.model.parameters(), one.model.parameters(), strict=True):
        assert torch.equal(found, expected)
