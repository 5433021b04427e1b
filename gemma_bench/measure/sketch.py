"""How a random rank-1 step G·a·aᵀ relates to the gradient G that it stands for.

For a ~ N(0, I) in n dimensions: E[G·a·aᵀ] = G, E‖G·a·aᵀ‖² = (n + 2)·‖G‖², E[cos²] = 1/n whatever G's spectrum is. The
mean cosine itself is smaller where few directions carry G: at rank 1 it is √(2/π)/√n.
"""

import math

from jaxtyping import Float
from torch import Tensor

from gemma_bench.core.intervals import Interval

_Z = 1.96


def sketch_moments(gradient: Float[Tensor, "out n"], draws: Float[Tensor, "draw n"]) -> dict[str, Interval]:
    """Return what was found over what is expected, with 95 % intervals, for many draws of `a`.

    `mean`: the step's component along the gradient, over the gradient. `cosine`: its root mean square times √n.
    `second moment`: the squared norm over (n + 2)·‖G‖².
    """
    g, a = gradient.double(), draws.double()
    n, size = g.shape[1], g.square().sum()
    seen, lengths = (a @ g.mT).square().sum(1) / size, a.square().sum(1)  # draw
    cosine = _mean(n * seen / lengths)
    return {
        "mean": _mean(seen),
        "cosine": Interval(*(math.sqrt(max(end, 0.0)) for end in cosine)),
        "second moment": _mean(seen * lengths / (n + 2)),
    }


def bias_over_chance(gradient: Float[Tensor, "out n"], draws: Float[Tensor, "draw n"]) -> float:
    """Return ‖mean step − G‖ over what it is for an unbiased sketch of as many draws, √((n + 1)/draws)·‖G‖."""
    g, a = gradient.double(), draws.double()
    off = g @ (a.mT @ a) / len(a) - g
    chance = math.sqrt((g.shape[1] + 1) / len(a)) * g.norm()
    return float(off.norm() / chance)


def _mean(values: Float[Tensor, " draw"]) -> Interval:
    mean, margin = float(values.mean()), _Z * float(values.std()) / math.sqrt(len(values))
    return Interval(mean, mean - margin, mean + margin)
