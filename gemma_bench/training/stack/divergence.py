"""Telling a run that blew up from one that holds little: its loss climbed back, or is no number."""

from collections.abc import Sequence
from math import isfinite

_LEARNED_NATS = 0.1
_CLIMBED_BACK = 0.5
_ENDED_WORSE = 0.05

_UNREST_NATS = 0.02
"""Means over a part of a short run differ by this much from one draw of batches to the next."""


def divergence(curve: Sequence[float], start: float) -> str | None:
    """Return why a curve of mean losses (nats per token, `start` being that of no knowledge) is no evidence, or `None`.

    It is none if a loss is no number, if it ever climbed back by half of what had been learned, or if the end is worse
    than the best by a twentieth of it and by more than batches differ. A loss that never left its start is no
    divergence: nothing was learned.
    """
    best = start
    for place, loss in enumerate(curve):
        if not isfinite(loss):
            return f"the loss is no number after {place} of {len(curve)} parts of the run"
        learned = start - best
        if learned > _LEARNED_NATS and loss - best > _CLIMBED_BACK * learned:
            return f"the loss climbed from {best:.3f} back to {loss:.3f} nats in part {place + 1} of {len(curve)}"
        best = min(best, loss)
    learned = start - best
    if curve and learned > _LEARNED_NATS and curve[-1] - best > max(_ENDED_WORSE * learned, _UNREST_NATS):
        return f"the loss ended at {curve[-1]:.3f} nats and had been at {best:.3f}"
    return None
