"""What every record of set block decoding tells: losses of the models, and how each way to decode came off."""

from gemma_bench.core.records import Record


class DecodingRecord(Record):
    """Columns that begin alike have a line each per model (`loss`), or per model and way to decode (`row`).

    `over_control` is the held-out next-token loss less that of the control of equal tokens. `right` is the share of
    right answers, `lost` that of answers which the same model gets right token by token and loses in blocks. Tokens per
    pass are 1 for one token per pass. `nats` is what an answer costs per token under another model.
    """

    device: str
    prompts_count: int
    loss_model: tuple[str, ...]
    loss_nats: tuple[float, ...]
    loss_over_control_nats: tuple[float, ...]
    loss_over_control_low_nats: tuple[float, ...]
    loss_over_control_high_nats: tuple[float, ...]
    row_model: tuple[str, ...]
    row_decoder: tuple[str, ...]
    row_block_tokens: tuple[int, ...]
    row_amount: tuple[float | None, ...]
    row_right_ratio: tuple[float, ...]
    row_right_low_ratio: tuple[float, ...]
    row_right_high_ratio: tuple[float, ...]
    row_lost_ratio: tuple[float, ...]
    row_lost_low_ratio: tuple[float, ...]
    row_lost_high_ratio: tuple[float, ...]
    row_tokens_per_pass: tuple[float, ...]
    row_tokens_per_pass_low: tuple[float, ...]
    row_tokens_per_pass_high: tuple[float, ...]
    row_nats: tuple[float, ...]
