"""Known-bad variants of chapter 6: each returns a context manager under which a check must reverse its verdict."""

import math
from unittest.mock import patch

import numpy as np


def _sampler(fix):
    from gemma_bench.methods.block_samplers import EntropyBounded

    right = EntropyBounded.fix
    return patch.object(
        EntropyBounded,
        "fix",
        lambda sampler, entropies_nats, confidences: fix(right, sampler, entropies_nats, confidences),
    )


def largest_entropy_counted():
    def fix(right, sampler, entropies, confidences):
        order = np.argsort(entropies)
        return np.sort(order[: max(1, int((np.cumsum(entropies[order]) <= sampler.gamma).sum()))])

    return _sampler(fix)


def entropies_unsorted():
    from gemma_bench.methods.block_samplers import LeftPrefix

    return _sampler(lambda right, sampler, *figures: LeftPrefix(sampler.gamma).fix(*figures))


def bits_for_nats():
    return _sampler(lambda right, sampler, entropies, confidences: right(sampler, entropies / math.log(2), confidences))


def _roofline(**shapes):
    from gemma_bench.measure import roofline

    return patch.multiple(roofline, **{name: getattr(roofline, other) for name, other in shapes.items()})


def printed_code_mended():
    return _roofline(PRINTED="MENDED")


def printed_code_left():
    return _roofline(MENDED="PRINTED")


def chat_tasks_left_out():
    from published import set_block

    reasoning = {
        name: saving
        for name, saving in set_block.savings_without_loss().items()
        if name.partition(" on ")[2] in set_block.REASONING
    }
    return patch.object(set_block, "savings_without_loss", lambda: reasoning)


def factor_rule_as_corrected():
    from gemma_bench.methods import block_samplers

    from published import set_block

    return patch.object(set_block, "printed_factor_cost", block_samplers.factor_cost)


def finished_tokens_see_the_block():
    from gemma_bench.methods.set_block_passes import BlockMasks

    right = BlockMasks.of_pass.__func__

    def wrong(kind, cache, finished, block, window):
        return right(kind, cache, 0, finished + block, window)

    return patch.object(BlockMasks, "of_pass", classmethod(wrong))


def blocks_keys_and_values_kept():
    from gemma_bench.methods.set_block_torch import TorchBlockCache

    right, written = TorchBlockCache.update, {}

    def wrong(cache, keys, values, layer, *rest):
        start = cache.kept_tokens
        stop, before = start + keys.shape[2], written.get((id(cache), layer), 0)
        if start < before:
            known = cache.rooms[layer][:, :, :, start : min(before, stop)]
            keys[:, :, : known.shape[3]], values[:, :, : known.shape[3]] = known[0], known[1]
        written[id(cache), layer] = max(stop, before)
        return right(cache, keys, values, layer, *rest)

    return patch.object(TorchBlockCache, "update", wrong)


def tokens_of_a_block_read_apart():
    from gemma_bench.methods.set_block_torch import TorchPasses

    right = TorchPasses.read

    def wrong(passes, cache, finished, block, is_masked):
        for _ in range(block.shape[1] - 1):
            right(passes, cache, finished[:, :0], block, is_masked)
        return right(passes, cache, finished, block, is_masked)

    return patch.object(TorchPasses, "read", wrong)
