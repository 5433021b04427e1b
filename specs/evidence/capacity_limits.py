"""Evidence of chapter 3 on what happens where data begin to exceed capacity, and far beyond."""

import pytest

from gemma_bench.claims import Measured


@pytest.fixture
def attack_far_above_capacity():
    """Return what tells how far an attack's AUC is from ½ at the smallest data of a law that exceed capacity so often.

    A record is no evidence where the control, others against others, is off, or where models that saw uniform strings
    hold less than four fifths of what they could: they were trained too little.
    """
    from statistics import median

    from gemma_bench.core.errors import InvalidRunError, UnavailableError
    from gemma_bench.core.intervals import median_interval

    def judged(record, rule, times):
        sizes = record.sizes(rule)
        over = {size: min(record.column("over_capacity_ratio", rule, size)) for size in sizes}
        if over[sizes[-1]] < times:
            needed = times / over[sizes[-1]] * sizes[-1]
            raise UnavailableError(
                "data",
                f"the largest data exceed capacity {over[sizes[-1]]:.3g} times: {needed:,.0f} sequences would do",
            )
        size = next(size for size in sizes if over[size] >= times)
        control = median(record.column("control_auc_ratio", rule, size))
        if abs(control - 0.5) > 0.05:
            raise InvalidRunError("control", f"others against others give an AUC of {control:.3f}")
        share = _held(record, times)
        if share < 0.8:
            raise InvalidRunError("too short", f"at {times} times capacity {share:.0%} of it are in use")
        found = record.column("auc_ratio", rule, size)
        curve = ", ".join(
            f"{over[each]:.3g}: {median(record.column('auc_ratio', rule, each)):.3f}"
            f" ({median(record.column('member_bits_per_sequence', rule, each)):.2f})"
            for each in sizes
        )
        reason = f"AUC (bits saved on each member) by data over capacity: {curve}; F1 {median(record.column('f1_ratio', rule, size)):.3f}, floor {record.f1_floor_ratio:.3f}"
        reason += f"; {record.visits_count} visits, {len(found)} seeds, {record.parameters_count:,} parameters; control {control:.3f}"
        return Measured.within(
            median_interval([abs(auc - 0.5) for auc in found]), "of AUC off ½", [abs(auc - 0.5) for auc in found]
        ), reason

    return judged


def _held(record, times):
    """Return the share of capacity in use where uniform strings exceed it so many times, the least of all seeds."""
    capacity = dict(zip(record.capacity_seeds, record.capacity_bits, strict=True))
    rows = zip(
        record.rule_ratios,
        record.over_capacity_ratio,
        record.seeds,
        record.sequences_counts,
        record.member_bits_per_sequence,
        strict=True,
    )
    above = [
        (over, count * bits / capacity[seed]) for rule, over, seed, count, bits in rows if rule == 0 and over >= times
    ]
    nearest = min(over for over, _ in above)
    return min(share for over, share in above if over < 1.5 * nearest)


@pytest.fixture
def peak_over_capacity(request):
    """Return what tells where test loss peaks, in data over capacity, from the most steps of a record.

    A peak lies somewhere between the sizes beside it: the interval reaches from the lowest of these to the highest.
    A climb of less than a tenth of a bit per token is no peak, which counts as one at no data.
    """
    from statistics import median

    from evidence.known_answers import peak_at_nine_tenths

    from gemma_bench.core.errors import UnavailableError

    def judged(record):
        if request.config.option.faults:
            record = peak_at_nine_tenths(record)
        seeds = sorted(set(record.seeds))
        found = {
            steps: [record.peak(steps, seed) for seed in seeds]
            for steps in sorted(set(record.steps_counts), reverse=True)
        }
        most, *fewer = found
        peaks = [peak if peak.climbed >= 0.1 else peak._replace(ratio=0.0, low_ratio=0.0) for peak in found[most]]
        largest = min(record.column("data_bits", most, seed)[-1] / record.capacity(most, seed) for seed in seeds)
        if largest <= 1.2:
            needed = 1.2 / largest * max(record.sequences_counts)
            raise UnavailableError(
                "data", f"the largest data are {largest:.2f} of capacity: {needed:,.0f} sequences would exceed it"
            )
        value = median(peak.ratio for peak in peaks)
        reason = f"{record.parameters_count:,} parameters, {most:,} steps: test loss climbs by {', '.join(f'{peak.climbed:.2f}' for peak in peaks)} bits per token to its peak, by seed"
        for steps in fewer:
            moved = ", ".join(f"{peak.ratio:.2f}" for peak in found[steps])
            reason += f"; the peak moves with training time: at {steps:,} steps it is at {moved}"
        low, high = min(peak.low_ratio for peak in peaks), max(peak.high_ratio for peak in peaks)
        samples = tuple(peak.ratio for peak in peaks)
        finer = "data sizes nearer to each other"
        return Measured(value=value, low=low, high=high, unit="× capacity", samples=samples, narrowed_by=finer), reason

    return judged


@pytest.fixture
def engine_speedup(request):
    """Return how many times more model-steps a stack does per CPU-second than the loop; both must compute the same."""
    from gemma_bench.core.errors import InvalidRunError
    from gemma_bench.core.intervals import Interval
    from gemma_bench.core.records import Subject
    from gemma_bench.experiments.engine_speed import FIXTURE, run

    fewer = {"stack_steps": 15, "loop_steps": 15, "rounds": 3} if request.config.option.faults else {}
    (record,) = run(FIXTURE.model_copy(update=fewer))
    if record.largest_difference_nats > 0.01:
        raise InvalidRunError(
            "wrong output", f"a token costs {record.largest_difference_nats:.3f} nats more or less than in the loop"
        )
    reason = (
        f"{record.models_count} models of {record.parameters_count:,} parameters, batch {record.batch_size}: {record.stack_ms_per_step:.2f} ms"
        f" of CPU time per step and model, in a loop {record.loop_ms_per_step:.2f} ms; {'C' if record.is_compiled else 'torch'} kernels"
    )
    ratio = Interval(record.speedup_ratio, record.speedup_low_ratio, record.speedup_high_ratio)
    return (
        Measured.within(ratio, "× the steps", record.samples),
        reason,
        Subject(model_id=record.model_id, dtype=record.dtype, seed=record.seed),
    )
