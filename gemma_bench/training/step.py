"""Training steps on random weights and tokens, as their memory and time are forecast and measured."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from gemma_bench.models.llama import LlamaSize
from gemma_bench.training import adapters, split_weights
from gemma_bench.training.method import Moment, Prepared
from gemma_bench.training.objective import summed_nats
from gemma_bench.training.plan import Plan


def prepared_model(plan: Plan, device: str) -> Prepared:
    """Build a plan's model with random weights, made ready by its method; on `meta` it has shapes only.

    It is as it is after a first merge: 16-bit weights have their float32 remainders where the plan wants them.
    """
    config: Any
    kind: Any
    if isinstance(plan.size, LlamaSize):
        config, kind = LlamaConfig(**plan.size.config()), LlamaForCausalLM
    else:
        config, kind = Gemma3TextConfig(**plan.size.config()), Gemma3ForCausalLM
    with torch.device(device):
        model: Any = kind._from_config(config, dtype=getattr(torch, plan.dtype)).train()
    if plan.checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    prepared = plan.method.prepare(model, plan.settings)
    for layer in adapters.layers(prepared.model).values():
        if plan.adapter_dtype:
            for factor in adapters.adapter_parameters(layer):
                factor.data = factor.data.to(getattr(torch, plan.adapter_dtype))
        if prepared.changes_frozen_weights and plan.exact_merges and plan.dtype == "bfloat16":
            split_weights.low_half(layer.get_base_layer())
    return prepared


class Training:
    """A prepared model with its optimizer and one batch, trained step by step as the trainer would."""

    def __init__(self, prepared: Prepared, plan: Plan) -> None:
        """Let the method begin; nothing is trained yet."""
        self.prepared, self.plan, self.settings = prepared, plan, plan.settings
        groups = [{"params": group.parameters} for group in prepared.groups]
        self.optimizer = prepared.optimizer(groups, self.settings)
        if isinstance(self.optimizer, torch.optim.AdamW):
            for group in self.optimizer.param_groups:
                group.update(fused=plan.update.fused, foreach=plan.update.foreach)
        self.done = 0
        for callback in prepared.callbacks:
            callback.begin(self._now)
        owned = (parameter for group in prepared.groups for parameter in group.parameters)
        self.trained = [parameter for parameter in owned if parameter.requires_grad]
        tokens = torch.ones((plan.batch_size, plan.read_length), dtype=torch.long, device=self.trained[0].device)
        self.batch = {"input_ids": tokens, "labels": tokens}

    @property
    def _now(self) -> Moment:
        return Moment(self.done, self.settings.iters, self.prepared.model, self.optimizer, self.settings.clip_norm)

    def make_states(self) -> None:
        """Make the optimizer's states by an update with gradients of zero: a real run has them from its second step."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def phases(self) -> Iterator[str]:
        """Train one step, stopping before each of its phases to say which comes next."""
        for callback in self.prepared.callbacks:
            callback.before_gradients(self._now)
        for _ in range(self.plan.gradient_accumulation):
            yield "forward"
            loss = self._loss()
            yield "backward"
            loss.backward()
            del loss
        yield "update"
        torch.nn.utils.clip_grad_norm_([p for p in self.trained if p.grad is not None], self.settings.clip_norm)
        for callback in self.prepared.callbacks:
            callback.before_step(self._now)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def _loss(self) -> Tensor:
        """Return the mean over all targets: as transformers computes it, or in pieces as our trainer does."""
        tokens, model = self.batch["input_ids"], cast(Any, self.prepared.model)
        lower = torch.autocast(tokens.device.type, torch.bfloat16) if self.plan.autocast else nullcontext()
        with lower:
            if not self.plan.loss_in_pieces:
                loss: Tensor = model(**self.batch, use_cache=False).loss
                return loss
            hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            return summed_nats(model.get_output_embeddings(), hidden, tokens[:, 1:].flatten()) / len(hidden)

    def step(self) -> None:
        """Train one step, without the merge that some steps end with."""
        for _ in self.phases():
            pass

    def merge(self) -> None:
        """Do what the method does at a merge, as if it were time for one."""
        for callback in self.prepared.callbacks:
            callback.after_step(replace(self._now, step=callback.first_merge))
