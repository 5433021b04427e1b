"""What an optimizer remembers of single parameters, forgotten wholly or in part."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_ROUNDING = 1e-6
"""1,200 · (1 − 0.9) is 119.99… in binary."""


@torch.no_grad()
def prune_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], share: float) -> None:
    """Zero a share of both of Adam's moments, all but where the first moment is largest; one mask serves both."""
    for parameter in parameters:
        moments = [tensor for tensor in _state(optimizer, parameter) if tensor.shape == parameter.shape]
        if moments:
            size = moments[0].abs().flatten()
            count = math.floor(len(size) * (1 - share) + _ROUNDING)
            kept = torch.zeros_like(size).index_fill_(0, size.topk(count).indices, 1.0)
        for moment in moments:
            moment.mul_(kept.view_as(moment))


@torch.no_grad()
def reset_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Set the whole state of these parameters to zero, the step count included: as if they had never been trained."""
    for parameter in parameters:
        for tensor in _state(optimizer, parameter):
            tensor.zero_()


def _state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    return [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
