"""What a torch model writes after many prompts at once, and how likely it finds what was written."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_HEAD_ROWS = 1024


@torch.inference_mode()
def next_token_answers(
    model: Any, prompts: Sequence[Sequence[int]], max_tokens: int, stop_token: int | None
) -> tuple[tuple[int, ...], ...]:
    """Return greedy answers, one token per pass, without the stop token that ends them."""
    longest = max(map(len, prompts))
    rows = torch.tensor([[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts], device=model.device)
    is_there = torch.tensor([[*[0] * (longest - len(prompt)), *[1] * len(prompt)] for prompt in prompts])
    written = model.generate(
        input_ids=rows,
        attention_mask=is_there.to(model.device),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=stop_token,
        pad_token_id=0 if stop_token is None else stop_token,
    )
    return tuple(_until(stop_token, row) for row in written[:, longest:].tolist())


@torch.inference_mode()
def answer_nats(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], batch_rows: int = 64
) -> list[float]:
    """Return each answer's -log p after its prompt, summed over its tokens, in float32 at the head."""
    nats: list[float] = []
    for start in range(0, len(prompts), batch_rows):
        some = slice(start, start + batch_rows)
        nats += _batch_nats(model, prompts[some], answers[some])
    return nats


def _batch_nats(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
    position = torch.arange(longest, device=model.device)
    begin = torch.tensor([[len(prompt)] for prompt in prompts], device=model.device)
    end = torch.tensor([[len(row)] for row in rows], device=model.device)
    is_answer = ((position >= begin) & (position < end))[:, 1:]
    hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    found = torch.zeros(is_answer.shape, device=model.device)
    found[is_answer] = _losses(model.get_output_embeddings(), hidden[is_answer], tokens[:, 1:][is_answer])
    sums: list[float] = found.sum(dim=1).tolist()
    return sums


def _losses(head: Any, hidden: Float[Tensor, "row hidden"], labels: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    chunks = zip(hidden.split(_HEAD_ROWS), labels.split(_HEAD_ROWS), strict=True)
    return torch.cat(
        [torch.nn.functional.cross_entropy(head(rows).float(), some, reduction="none") for rows, some in chunks]
    )


def _until(stop_token: int | None, tokens: list[int]) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(stop_token)] if stop_token in tokens else tokens)
