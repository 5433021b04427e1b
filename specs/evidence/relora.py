"""Evidence of chapter 4: merged low-rank updates, on a model of 165 thousand parameters."""

import math
from typing import NamedTuple

import pytest


class Merge(NamedTuple):
    """What one merge did to outputs and to the adapters after it."""

    largest_change: float
    dead_count: int
    reason: str


@pytest.fixture
def merge():
    """Merge adapters with trained-looking factors; return what changed and how many fresh ones get no gradient."""
    import torch

    from gemma_bench.training import adapters
    from gemma_bench.training.micro import micro_model

    generator = torch.Generator().manual_seed(0)
    model = adapters.attach(micro_model(), 4)
    found, tokens = adapters.layers(model), torch.randint(6, 262, (4, 32), generator=generator)
    for layer in found.values():
        for factor in adapters.adapter_parameters(layer):
            factor.data.normal_(std=0.03, generator=generator)
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        with model.disable_adapter():
            effect = (model(input_ids=tokens).logits - before).abs().max()
        adapters.merge_and_restart(found, generator)
        change = (model(input_ids=tokens).logits - before).abs().max()
    model(input_ids=tokens, labels=tokens).loss.backward()
    gradients = [max(float(f.grad.abs().max()) for f in adapters.adapter_parameters(one)) for one in found.values()]
    reason = f"the adapters moved logits by {effect:.2g}; smallest gradient of {len(found)} fresh adapters {min(gradients):.1g}"
    return Merge(float(change), sum(size == 0 for size in gradients), reason)


@pytest.fixture
def schedule_error():
    """Return the largest distance of the adapters' rate from the paper's schedule, over all steps of a run."""
    from gemma_bench.methods.relora import ReLoRA
    from gemma_bench.training.micro import micro_model
    from gemma_bench.training.settings import Settings

    steps, warmup, interval, rewarm, floor = 400, 20, 100, 10, 0.1
    settings = Settings(iters=steps, warmup_steps=warmup, min_rate_ratio=floor, learning_rate=1.0)
    method = ReLoRA(reset_interval=interval, rewarm_steps=rewarm)
    rate = method.prepare(micro_model(), settings).groups[0].schedule

    def cosine(step):
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    def stated(step):
        if step < warmup:
            return 2 * step / warmup
        since = step % interval if step >= interval else rewarm
        return 2 * cosine(step) if since >= rewarm else 2 * cosine(step - since + rewarm) * since / rewarm

    worst = max(range(steps), key=lambda step: abs(rate(step) - stated(step)))
    seen = ", ".join(f"{step}: {rate(step):.3f}" for step in (0, 20, 99, 100, 105, 110, 300, 310))
    return abs(rate(worst) - stated(worst)), f"share of the full-rank rate by step: {seen}"


@pytest.fixture
def pruned():
    """Return the smallest share of an adapter's entries that lose both moments; 0 if others lose any."""
    from gemma_bench.methods.relora import ReLoRA
    from gemma_bench.training.adapters import layers
    from gemma_bench.training.corpus import Windows, python_sources
    from gemma_bench.training.method import Moment
    from gemma_bench.training.micro import micro_model
    from gemma_bench.training.settings import Settings
    from gemma_bench.training.trainer import fit

    rows = Windows(python_sources().train[:50_000], 32)
    method = ReLoRA(rank=8, reset_interval=6, rewarm_steps=1, moments="prune", embeddings=True)
    trainer = fit(micro_model(), method, rows, Settings(iters=5, learning_rate=1e-3, batch_size=4))
    state = trainer.optimizer.state
    ours = {
        id(p)
        for layer in layers(trainer.model).values()
        for p in (*layer.lora_A.parameters(), *layer.lora_B.parameters())
    }
    before = {parameter: state[parameter]["exp_avg"].clone() for parameter in state if id(parameter) not in ours}
    trainer.prepared.callbacks[0].after_step(Moment(6, 100, trainer.model, trainer.optimizer, 1.0))
    others = sum(int((state[parameter]["exp_avg"] != was).sum()) for parameter, was in before.items())
    shares = [
        100 * float(((moments["exp_avg"] == 0) & (moments["exp_avg_sq"] == 0)).float().mean())
        for parameter, moments in state.items()
        if id(parameter) in ours
    ]
    reason = f"{len(shares)} adapter matrices, {others} entries of {len(before)} other parameters changed"
    return (0.0 if others else min(shares)), reason
