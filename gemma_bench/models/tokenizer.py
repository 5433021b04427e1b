"""Tokenizers: a model folder's, the tiny model's byte-level one, and the chat template for those without."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from gemma_bench.core.errors import BadInputError, DamagedFileError

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
"""The tiny vocabulary's first ids; byte b follows as id 6 + b. Ids 0 to 3 are those of the released models."""


def load_tokenizer(path: Path) -> Any:
    """Load a folder's tokenizer as transformers' own class, offline and without running code from the folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFileError(f"model folder {path} has no tokenizer that can be read: {error}") from error


def chat_template() -> str:
    """Return Gemma's chat format as a Jinja template."""
    return files("gemma_bench.models").joinpath("chat_template.jinja").read_text(encoding="utf-8")


def with_chat_template(tokenizer: Any) -> Any:
    """Give a tokenizer our chat template unless it brought its own."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = chat_template()
    return tokenizer


def byte_tokenizer() -> Any:
    """Build the tiny model's tokenizer: one token per byte of UTF-8, `<bos>` in front."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    vocabulary = {
        token: index for index, token in enumerate((*SPECIAL_TOKENS, *(letters[byte] for byte in range(256))))
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))  # noqa: S106
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL_TOKENS.index("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        bos_token="<bos>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )


def stop_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the ids that end an answer: `<eos>` of the base models, `<end_of_turn>` of the chat models."""
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    return frozenset(token for token in (tokenizer.eos_token_id, turn) if token not in (None, tokenizer.unk_token_id))


def check_mask_token(tokenizer: Any, token: int) -> None:
    """Refuse that a token which begins, ends or fills up texts stands for hidden ones."""
    taken = stop_tokens(tokenizer) | {tokenizer.bos_token_id, tokenizer.pad_token_id}
    if token in taken:
        raise BadInputError(
            f"mask token must be one that no text needs, got {token}, which is {tokenizer.convert_ids_to_tokens(token)}"
        )


def prompt_tokens(tokenizer: Any, text: str, *, chat: bool = False) -> list[int]:
    """Turn a prompt into tokens, `<bos>` in front; with `chat` as a user's turn that the model is to answer."""
    if not chat:
        return list(tokenizer(text).input_ids)
    turns = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(written, add_special_tokens=False).input_ids)
