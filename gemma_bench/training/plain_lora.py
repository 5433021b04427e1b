"""What an adapter's configuration may say: LoRA, and rows of tokens, because fusing knows only W + s·B·A and those."""

from pathlib import Path

from peft import LoraConfig, PeftConfig

from gemma_bench.core.errors import BadInputError, DamagedFileError

_BEYOND = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "use_qalora",
    "use_bdlora",
)
"""What PEFT may add to plain LoRA: the model then computes something else than W + s·B·A."""


def require_plain_lora(folder: Path) -> None:
    """Refuse an adapter that is not plain LoRA, naming what it has beside it."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(f"adapter {folder / 'adapter_config.json'} cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise BadInputError(f"adapter {folder} must be LoRA, got {config.peft_type}")
    for name in _BEYOND:
        if value := getattr(config, name, None):
            raise BadInputError(f"adapter {folder} must be plain LoRA, W + s·B·A on matrices, got {name}={value!r}")
