"""Known-bad variants of the records of chapters 4 and 5."""

from unittest.mock import patch


def arms_taken_for_each_other():
    from gemma_bench.experiments.arms_record import ArmsRecord

    right = ArmsRecord.excess_nats
    return patch.object(ArmsRecord, "excess_nats", lambda record, arm, over: right(record, over, arm))
