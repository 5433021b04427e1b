"""How a training run goes, whatever the method: steps, rates, batches, how often to look and to save."""

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Names follow `mlx_lm.lora` where it has one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    iters: int = Field(1000, ge=1, description="Optimizer steps.")
    learning_rate: float = Field(
        1e-4, gt=0, le=1e30, description="Peak rate of full-rank training; methods may multiply it."
    )
    batch_size: int = Field(4, ge=1, description="Rows per forward pass.")
    gradient_accumulation: int = Field(1, ge=1, description="Forward passes per step, weighted by their tokens.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up from zero.")
    min_rate_ratio: float = Field(0.1, ge=0, le=1, description="Where the cosine ends, as a share of the peak.")
    clip_norm: float = Field(1.0, ge=0, description="Largest norm of the gradients; 0 is no clipping.")
    weight_decay: float = Field(0.0, ge=0, le=1e3, description="AdamW's decoupled decay.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first decay.")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's second decay.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seeds the data's order, the adapters and dropout.")
    checkpointing: bool = Field(False, description="Recompute activations in the backward pass to save memory.")
    steps_per_report: int = Field(0, ge=0, description="Steps between two lines of the log; 0 is none.")
    steps_per_eval: int = Field(0, ge=0, description="Steps between evaluations; 0 is none.")
    save_every: int = Field(0, ge=0, description="Steps between checkpoints; 0 is none.")


class RunSettings(Settings):
    """Settings of a run that somebody watches and may want to go on with: it reports and saves unless told not to."""

    steps_per_report: int = Field(10, ge=0, description="Steps between two lines of the log; 0 is none.")
    save_every: int = Field(100, ge=0, description="Steps between checkpoints, of which two are kept; 0 is none.")
