"""Evidence of chapter 4: how the rank of merged low-rank updates grows. In a fault run there is one seed and fewer steps."""

import pytest

from gemma_bench.claims import Measured

RANK, FIVE, CYCLES = 4, 5, 6


class RankEvolution:
    """What ReLoRA's and LoRA's changes look like after each cycle, seed by seed."""

    def __init__(self, relora, lora, shapes):
        """Take an outcome per seed of both arms, and the shape of every matrix."""
        self.relora, self.lora, self.shapes = relora, lora, shapes

    @property
    def rank_off(self):
        """Return the largest difference from the expected rank, over seeds, matrices and cycles."""
        off = {"relora": 0, "lora": 0}
        for merged, plain in zip(self.relora, self.lora, strict=True):
            for name, sides in self.shapes.items():
                expected = [min((cycle + 1) * RANK, *sides) for cycle in range(CYCLES)]
                found = zip(merged.rank_of[name], expected, strict=True)
                off["relora"] = max(off["relora"], *(abs(rank - right) for rank, right in found))
                off["lora"] = max(off["lora"], *(abs(rank - RANK) for rank in plain.rank_of[name]))
        ranks = ", ".join(f"{rank:g}" for rank in self.relora[0].rank)
        reason = (
            f"{len(self.relora)} seeds, {len(self.shapes)} matrices: ReLoRA-{RANK} at most {off['relora']} off, mean rank "
            f"{ranks} by cycle; LoRA-{RANK} at most {off['lora']} off"
        )
        return max(off.values()), reason

    @property
    def growth(self):
        """Return the least of all growths from cycle to cycle, and a third of the ratio to LoRA after five, by seed."""
        from gemma_bench.core.intervals import median_interval

        ratios = [
            merged.effective_rank[FIVE - 1] / plain.effective_rank[FIVE - 1]
            for merged, plain in zip(self.relora, self.lora, strict=True)
        ]
        steps = [
            min(after / before for before, after in zip(run.effective_rank, run.effective_rank[1:], strict=False))
            for run in self.relora
        ]
        worst = [min(step, ratio / 3) for step, ratio in zip(steps, ratios, strict=True)]
        by_cycle = ", ".join(f"{rank:.1f}" for rank in self.relora[0].effective_rank)
        reason = (
            f"after five cycles {min(ratios):.1f} to {max(ratios):.1f} times LoRA's; each cycle at least "
            f"{min(steps):.2f} times the one before: {by_cycle}; random directions of the same norms "
            f"{self.relora[0].null_effective_rank:.1f} at the end, LoRA {self.lora[0].effective_rank[-1]:.1f}"
        )
        return Measured.within(median_interval(worst), "× of what is claimed", worst), reason


@pytest.fixture(scope="session")
def _measured_evolution():
    """Train once for all claims of a run without faults."""
    return _train(seeds=(0, 1, 2), interval=8, warm_steps=30)


@pytest.fixture
def rank_evolution(request):
    """Return the ranks of ReLoRA's and LoRA's changes, trained anew under a fault."""
    if request.config.option.faults:
        return _train(seeds=(0,), interval=3, warm_steps=10)
    return request.getfixturevalue("_measured_evolution")


def _train(seeds, interval, warm_steps):
    """Train both arms; the single key-value head makes matrices of 16 rows, whose rank is full after four cycles."""
    from gemma_bench.experiments.low_rank_arms import Arm, Course, run_arm, warm_up
    from gemma_bench.measure.rank_evolution import effective_weights
    from gemma_bench.methods.relora import ReLoRA
    from gemma_bench.training.method import Lora
    from gemma_bench.training.micro import MICRO

    size = MICRO.model_copy(update={"num_key_value_heads": 1})
    more = {"warm_steps": warm_steps, "warmup_steps": 4, "held_out_rows": 8}
    course = Course(size=size, steps=CYCLES * interval, read_every=interval, **more)
    merging = ReLoRA(rank=RANK, reset_interval=interval, rewarm_steps=2, rate_factor=1.0)
    merged = Arm(name="relora", method=merging, rates=(), null_terms=RANK)
    plain = Arm(name="lora", method=Lora(rank=RANK), rates=())
    starts = {seed: warm_up(course, seed) for seed in seeds}
    relora, lora = (
        [run_arm(arm, 5e-3, seed, course, start) for seed, start in starts.items()] for arm in (merged, plain)
    )
    return RankEvolution(
        relora, lora, {name: weight.shape for name, weight in effective_weights(starts[seeds[0]]).items()}
    )
