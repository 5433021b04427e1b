"""The record of arms of low-rank training that were run side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from gemma_bench.core.errors import InvalidRunError, unknown
from gemma_bench.core.records import Record, Subject
from gemma_bench.experiments.low_rank_arms import Course, Outcome

Grid = Mapping[float, float | None]
"""Losses by rate, in rising order of the rates; `None` is a run that diverged."""


class ArmsRecord(Record):
    """Arms by name, with their losses by seed; `None` is a run that diverged. Equal between arms: tokens and batches.

    Ranks are means over all matrices, by seed and reading; those of single matrices, the trajectory and the singular
    values are of the first seed. `unbracketed_arms` had their best rate at an end of the grid. `elapsed_s` is of the
    last session, where a run was resumed.
    """

    device: str
    parameters_count: int
    tokens_count: int
    steps_count: int
    elapsed_s: float
    arms: tuple[str, ...]
    rates: dict[str, float]
    grid_rates: dict[str, tuple[float, ...]]
    grid_nats: dict[str, tuple[float | None, ...]]
    unbracketed_arms: tuple[str, ...]
    diverged_arms: tuple[str, ...]
    seeds: tuple[int, ...]
    start_nats: tuple[float, ...]
    held_out_nats: dict[str, tuple[float | None, ...]]
    trainable_count: dict[str, int]
    read_steps: tuple[int, ...]
    curve_nats: dict[str, tuple[tuple[float, ...], ...]]
    rank: dict[str, tuple[tuple[float, ...], ...]]
    effective_rank: dict[str, tuple[tuple[float, ...], ...]]
    stable_rank: dict[str, tuple[tuple[float, ...], ...]]
    null_effective_rank: dict[str, float | None]
    rank_of: dict[str, dict[str, tuple[int, ...]]]
    effective_rank_of: dict[str, dict[str, tuple[float, ...]]]
    trajectory: dict[str, tuple[tuple[float, ...], ...]]
    singular_values: dict[str, dict[str, tuple[float, ...]]]

    def excess_nats(self, arm: str, over: str) -> tuple[float, ...]:
        """Return by seed how much higher an arm's loss is than another's; an arm without a fair figure is invalid."""
        for name in (arm, over):
            if name not in self.arms:
                raise unknown("arm", name, self.arms)
            if name in self.diverged_arms:
                raise InvalidRunError("diverged", f"{name} diverged at {self.rates[name]:g}: no loss to compare")
            if name in self.unbracketed_arms:
                raise InvalidRunError("best rate at the grid's end", f"{name} was best at {self.rates[name]:g}")
        pairs = zip(self.held_out_nats[arm], self.held_out_nats[over], strict=True)
        return tuple(a - b for a, b in pairs if a is not None and b is not None)


def subject(course: Course) -> Subject:
    """Return what was trained."""
    return Subject(model_id=course.size.name, weights_origin="random, warmed up at full rank", dtype="float32")


def searches(grids: Mapping[str, Grid]) -> dict[str, Any]:
    """Return the fields that tell how each arm's rate was found."""
    return {
        "grid_rates": {name: tuple(grid) for name, grid in grids.items()},
        "grid_nats": {name: tuple(grid.values()) for name, grid in grids.items()},
        "unbracketed_arms": tuple(name for name, grid in grids.items() if not is_bracketed(grid)),
    }


def best_rate(grid: Grid) -> float:
    """Return the rate of the lowest loss; a diverged run counts as worse than any."""
    return min(grid, key=lambda rate: float("inf") if (loss := grid[rate]) is None else loss)


def is_bracketed(grid: Grid) -> bool:
    """Whether the best rate has a worse one on both sides."""
    rates = list(grid)
    return best_rate(grid) not in (rates[0], rates[-1])


def figures(course: Course, runs: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """Return the fields that the runs at the best rates give: arms by name, each with an outcome per seed."""
    one_arm, first = next(iter(runs.values())), {name: found[0] for name, found in runs.items()}
    by_seed = {"held_out_nats": "nats", "curve_nats": "nats_at"} | {
        kind: kind for kind in ("rank", "effective_rank", "stable_rank")
    }
    of_first = ("trainable_count", "null_effective_rank", "rank_of", "effective_rank_of", "trajectory")
    return {
        "parameters_count": course.size.parameter_count,
        "tokens_count": course.tokens,
        "steps_count": course.steps,
        "arms": tuple(runs),
        "seeds": tuple(one.seed for one in one_arm),
        "start_nats": tuple(one.start_nats for one in one_arm),
        "read_steps": max((one.steps for one in first.values()), key=len),
        "samples": tuple(one.nats for found in runs.values() for one in found if one.nats is not None),
        "diverged_arms": tuple(name for name, found in runs.items() if any(one.has_diverged for one in found)),
        "singular_values": {name: _shown(one, course.size.num_hidden_layers) for name, one in first.items()},
        **{
            of: {n: tuple(getattr(one, kind) for one in found) for n, found in runs.items()}
            for of, kind in by_seed.items()
        },
        **{kind: {name: getattr(one, kind) for name, one in first.items()} for kind in of_first},
    }


def _shown(outcome: Outcome, layers_count: int) -> dict[str, tuple[float, ...]]:
    """Keep the singular values of queries and of the last feed-forward matrix, in the first, middle and last layer."""
    shown = tuple(f".{layer}." for layer in (0, layers_count // 2, layers_count - 1))
    return {
        name: tuple(round(value, 9) for value in found)
        for name, found in outcome.singular_values.items()
        if name.endswith(("q_proj", "down_proj")) and any(layer in name for layer in shown)
    }
