"""Opening the tokenizers and text encoders of a pipeline's directory, without a look at any hub."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from side_ray.diffusion.condition.prompts import TextEncoder
from side_ray.diffusion.denoisers.layout import ENCODER, REFUSED, TEXT_WEIGHTS, TOKENIZER, names_in, variant_of
from side_ray.diffusion.files import check_finite, read_json
from side_ray.diffusion.networks.loading import MOST_TRANSFORMER_LAYERS, REFUSALS, check_size
from side_ray.errors import UserError, first_line

CLIP, CLIP_PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
TOKENIZERS = {CLIP: "CLIPTokenizer", CLIP_PROJECTED: "CLIPTokenizer", T5: "T5Tokenizer"}
"""By the text encoder's class; `…Fast` is another name of each."""
VOCABULARIES = {"CLIPTokenizer": {"vocab.json", "merges.txt"}, "T5Tokenizer": {"spiece.model"}}
"""The files of a tokenizer that has no `tokenizer.json`. Without any, transformers makes one that knows no word."""
IGNORED = re.compile(r"position_ids$")
"""Tensors in files of earlier versions of transformers, which are no weights."""


def require_transformers() -> None:
    """Raise UserError where transformers is not installed."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"text-conditioned models need the extra text: pip install 'side-ray[text]' ({first_line(error)})"
        ) from error


def parts_in_index(classes: Mapping[str, str]) -> dict[str, list[list[str]]]:
    """What `model_index.json` may say of the tokenizers and text encoders of these classes, which are by suffix."""
    found = {}
    for suffix, name in classes.items():
        found[f"{TOKENIZER}{suffix}"] = [
            ["transformers", TOKENIZERS[name]],
            ["transformers", f"{TOKENIZERS[name]}Fast"],
        ]
        found[f"{ENCODER}{suffix}"] = [["transformers", name]]
    return found


def load_encoder(directory: Path, suffix: str, kind: str, **settings: Any) -> TextEncoder:
    """A tokenizer and its text encoder.

    Args:
        directory: of the pipeline.
        suffix: of their directories, such as `_2`.
        kind: the text encoder's class.
        settings: of `TextEncoder`.

    Raises:
        UserError: they are missing or damaged, or of another class.
    """
    import transformers
    from transformers.utils import logging

    path = directory / f"{ENCODER}{suffix}"
    _check_config(path / "config.json", kind)
    _check_vocabulary(directory / f"{TOKENIZER}{suffix}", TOKENIZERS[kind])
    logging.disable_progress_bar()
    variant = variant_of(names_in(directory), f"{ENCODER}{suffix}/", TEXT_WEIGHTS)
    try:
        network, info = getattr(transformers, kind).from_pretrained(
            path,
            variant=variant or None,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        kind_of_tokenizer: Any = getattr(transformers, TOKENIZERS[kind])
        tokenizer = kind_of_tokenizer.from_pretrained(directory / f"{TOKENIZER}{suffix}", local_files_only=True)
    except (OSError, SafetensorError, ImportError, *REFUSALS) as error:
        raise UserError(f"the text encoder in {path} cannot be loaded: {first_line(error)}") from error
    unexpected = [name for name in info["unexpected_keys"] if not IGNORED.search(name)]
    wrong = sorted(map(str, [*info["missing_keys"], *unexpected, *info["mismatched_keys"]]))
    if wrong:
        raise UserError(f"the weights in {path} do not fit config.json: {len(wrong)} tensors, first {wrong[0]}")
    check_finite(network.state_dict(), path)
    if len(tokenizer) > network.config.vocab_size:
        raise UserError(
            f"{directory / f'{TOKENIZER}{suffix}'} has {len(tokenizer):,} tokens, the text encoder "
            f"{network.config.vocab_size:,}; they do not belong together"
        )
    encoder = TextEncoder(tokenizer, network, **settings)
    most = getattr(network.config, "max_position_embeddings", encoder.length)
    if encoder.length > most:
        raise UserError(
            f"{directory / f'{TOKENIZER}{suffix}'}: model_max_length is {encoder.length}, more than the text encoder's "
            f"{most} positions"
        )
    return encoder


def _check_vocabulary(directory: Path, kind: str) -> None:
    """Raise UserError if a tokenizer's vocabulary is missing, or is one that cannot be read here."""
    files = {path.name for path in directory.glob("*")}
    if "tokenizer.json" in files:
        return
    if missing := sorted(VOCABULARIES[kind] - files):
        raise UserError(f"{directory} has neither tokenizer.json nor {missing[0]}, so the tokenizer cannot be loaded")
    if "spiece.model" in VOCABULARIES[kind] and find_spec("sentencepiece") is None:
        raise UserError(f"{directory / 'spiece.model'} needs the extra text: pip install 'side-ray[text]'")


def _check_config(path: Path, kind: str) -> None:
    """Raise UserError if a text encoder is of another class, or larger than any."""
    given = read_json(path)
    check_size(given, path, "text encoder")
    if given.get("architectures", [kind]) != [kind]:
        raise UserError(f"{path} is of a {', '.join(map(str, given['architectures']))}, not a {kind}: {REFUSED}")
    layers = given.get("num_hidden_layers", 12)
    if not isinstance(layers, int) or layers > MOST_TRANSFORMER_LAYERS:
        raise UserError(f"{path}: num_hidden_layers must be a number up to {MOST_TRANSFORMER_LAYERS}")
