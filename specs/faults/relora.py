"""Known-bad variants of chapter 4: each returns a context manager under which a check must reverse its verdict."""

from contextlib import ExitStack
from unittest.mock import patch


def _merge(times):
    from gemma_bench.training import adapters

    right = adapters.merge
    return patch.object(adapters, "merge", lambda layer: [right(layer) for _ in range(times)])


def restart_without_merge():
    return _merge(0)


def merged_twice():
    return _merge(2)


def merged_at_the_wrong_scale():
    from gemma_bench.training import adapters

    right = adapters.add_product
    return patch.object(adapters, "add_product", lambda linear, b, a, scale: right(linear, b, a, scale / 2))


def both_factors_start_at_zero():
    from gemma_bench.training import adapters

    right = adapters.restart

    def dead(layer, generator):
        right(layer, generator)
        for factor in adapters.adapter_parameters(layer):
            factor.data.zero_()

    return patch.object(adapters, "restart", dead)


def no_teeth():
    from gemma_bench.methods import relora

    return patch.object(relora, "jagged_cosine", lambda settings, method: relora.cosine(settings))


def teeth_climb_to_the_peak():
    from gemma_bench.methods import relora

    right = relora.jagged_cosine

    def to_the_peak(settings, method):
        jagged, first = right(settings, method), method.reset_interval

        def share(step):
            since = step % first
            return since / method.rewarm_steps if step >= first and since < method.rewarm_steps else jagged(step)

        return share

    return patch.object(relora, "jagged_cosine", to_the_peak)


def adapters_at_the_full_rank_rate():
    from gemma_bench.methods import relora

    return patch.object(relora, "scaled", lambda schedule, factor: schedule)


def a_threshold_per_moment():
    import torch

    from gemma_bench.methods import relora

    def apart(optimizer, parameters, share):
        for parameter in parameters:
            for moment in (optimizer.state[parameter][name] for name in ("exp_avg", "exp_avg_sq")):
                moment.mul_(moment.abs() > torch.quantile(moment.abs().flatten(), share))

    return patch.object(relora, "prune_moments", apart)


def embeddings_pruned_too():
    from gemma_bench.methods import relora

    return patch.object(
        relora, "all_adapter_parameters", lambda model: [p for p in model.parameters() if p.requires_grad]
    )


def gap_to_full_rank_training():
    from published import relora

    best = relora.ABLATION_130M_PERPLEXITY["full rank"]
    return patch.dict(relora.ABLATION_130M_PERPLEXITY, {"ReLoRA": best})


def merged_into_bfloat16():
    """Round every merged weight, in both methods that merge."""
    from gemma_bench.methods import rank_one
    from gemma_bench.training import adapters

    right, patches = adapters.merge, ExitStack()

    def merge(layer):
        right(layer)
        weight = layer.get_base_layer().weight
        weight.data = weight.data.bfloat16().to(weight.dtype)

    for module in (adapters, rank_one):
        patches.enter_context(patch.object(module, "merge", merge))
    return patches


def never_merged():
    from gemma_bench.methods.relora import Restarts

    return patch.object(Restarts, "after_step", lambda restarts, now: None)


def same_a_after_every_merge():
    import torch

    from gemma_bench.training import adapters

    right = adapters.restart
    return patch.object(adapters, "restart", lambda layer, generator: right(layer, torch.Generator().manual_seed(0)))
