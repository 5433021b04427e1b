"""Known-bad variants of chapter 5: each returns a context manager under which a check must reverse its verdict."""

from contextlib import ExitStack
from unittest.mock import patch


def weight_decay_in_the_gradient():
    from gemma_bench.measure import gradient_rank

    right = gradient_rank.next_token_loss

    def decayed(model, ids):
        weights = gradient_rank.projections(model).values()
        return right(model, ids) + 0.01 * sum(weight.square().sum() for weight in weights)

    return patch.object(gradient_rank, "next_token_loss", decayed)


def rounding_counted_as_rank():
    from gemma_bench.measure.spectrum import Spectrum

    return patch.object(Spectrum, "rank", property(lambda found: int((found.values > 0).sum())))


def sequences_of_one_token():
    from gemma_bench.measure import gradient_rank

    right = gradient_rank.gradient_spectra
    return patch.object(gradient_rank, "gradient_spectra", lambda model, ids, *rest: right(model, ids[:, :2], *rest))


def b_drawn_at_random():
    from gemma_bench.training import adapters

    right = adapters.restart

    def restart(layer, generator):
        right(layer, generator)
        adapters.adapter_parameters(layer)[0].data.normal_(std=0.02, generator=generator)

    return patch.object(adapters, "restart", restart)


def scale_left_out_of_the_merge():
    from gemma_bench.training import adapters

    right = adapters.add_product
    return patch.object(adapters, "add_product", lambda linear, b, a, scale: right(linear, b, a))


def merged_in_float64():
    """Keep what a plain sum would round away, as a master in double precision does."""
    exact = {}

    def summed(weight, b, a):
        if id(weight) not in exact:
            exact[id(weight)] = weight.double()
            weight.data = exact[id(weight)]
        weight.add_(b.double() @ a.double())

    return patch("evidence.rank_one.plain_sum", summed)


def _drawn(change):
    """Patch the rule of the random A where it is looked up: by name, and in the table of rules."""
    from gemma_bench.methods import rank_one
    from gemma_bench.training.adapters import adapter_parameters

    right, patches = rank_one.random_a, ExitStack()

    def random_a(layer, generator):
        right(layer, generator)
        a = adapter_parameters(layer)[1].data
        a.copy_(change(a))

    patches.enter_context(patch.object(rank_one, "random_a", random_a))
    patches.enter_context(patch.dict(rank_one.RULES, {"random_a": rank_one.Rule(random_a)}))
    return patches


def a_of_length_one():
    return _drawn(lambda a: a / a.norm())


def a_as_lora_draws_it():
    import torch

    return _drawn(lambda a: (2 * torch.rand_like(a) - 1) / a.shape[1] ** 0.5)


def same_a_at_every_step():
    import torch

    return _drawn(lambda a: torch.ones_like(a))


def singular_pair_never_sought():
    from gemma_bench.methods import rank_one

    return patch.object(
        rank_one, "top_pair", lambda times, back, start: (times(start / start.norm()), start / start.norm())
    )
