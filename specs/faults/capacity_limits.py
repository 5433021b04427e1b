"""Known-bad variants of chapter 3 where data exceed capacity, and of the engine that trains its stacks."""

from unittest.mock import patch


def _column(kind, asked, wrong):
    right = kind.column

    def column(record, name, *where):
        return wrong(record, right, *where) if name == asked else right(record, name, *where)

    return patch.object(kind, "column", column)


def others_drawn_from_the_members():
    """Nothing tells a member from another: what the attack reads if both sides come from the training data."""
    from gemma_bench.experiments.membership import MembershipRecord

    def chance(record, right, rule, sequences):
        return right(record, "control_auc_ratio", rule, sequences)

    return _column(MembershipRecord, "auc_ratio", chance)


def losses_of_data_that_fit():
    """Attack the smallest data in place of those far above capacity."""
    from gemma_bench.experiments.membership import MembershipRecord

    def fitting(record, right, rule, _):
        return right(record, "auc_ratio", rule, record.sizes(rule)[0])

    return _column(MembershipRecord, "auc_ratio", fitting)


def loss_that_only_falls():
    """Sort the test loss, which without noise only falls."""
    from gemma_bench.experiments.double_descent import DescentRecord

    def falling(record, right, *where):
        return sorted(right(record, "test_bits_per_token", *where), reverse=True)

    return _column(DescentRecord, "test_bits_per_token", falling)


def models_one_after_another_in_torch():
    """No stack and no kernels: what is left is the plain loop in another place."""
    from contextlib import ExitStack

    from gemma_bench.experiments import engine_speed
    from gemma_bench.training.stack import stepper

    train, faults = engine_speed.train, ExitStack()

    def one_by_one(shape, arms, data, training):
        return tuple(train(shape, [arm], [held], training)[0] for arm, held in zip(arms, data, strict=True))

    faults.enter_context(patch.object(engine_speed, "train", one_by_one))
    faults.enter_context(patch.object(stepper, "compiled", lambda: None))
    return faults
