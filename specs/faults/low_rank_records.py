"""Known-bad variants of the records of chapters 4 and 5."""

from unittest.mock import patch


def _excess(wrong):
    """Let a wrong comparison, which is given the right one, take its place."""
    from gemma_bench.experiments.arms_record import ArmsRecord

    right = ArmsRecord.excess_nats
    return patch.object(ArmsRecord, "excess_nats", lambda record, arm, over: wrong(right, record, arm, over))


def arms_taken_for_each_other():
    return _excess(lambda right, record, arm, over: right(record, over, arm))


def rank_matched_lora_taken_for_lora():
    return _excess(lambda right, record, arm, over: right(record, arm, f"{over}_matched"))


def first_reading_taken_for_the_last():
    def wrong(right, record, arm, over):
        return tuple(a[0] - b[0] for a, b in zip(record.curve_nats[arm], record.curve_nats[over], strict=True))

    return _excess(wrong)


def first_arm_at_its_worst_rate():
    def wrong(right, record, arm, over):
        found = [nats for nats in record.grid_nats[arm] if nats is not None]
        return tuple(nats + max(found) - min(found) for nats in right(record, arm, over))

    return _excess(wrong)


def worst_interval_taken_for_the_best():
    from evidence import low_rank_records

    right = low_rank_records.chosen_nats
    return patch.object(low_rank_records, "chosen_nats", lambda record, arm: -right(record, arm))
