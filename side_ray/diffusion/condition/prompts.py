"""Prompts of text-conditioned models: what encodes them, and the tensor in which a model is given them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.nn import functional

KEPT_BYTES = 2**28
"""Of the conditions of prompts that are kept: those of about 1,000 prompts for Stable Diffusion 1."""


def packed(sequence: torch.Tensor, *vectors: torch.Tensor) -> torch.Tensor:
    """A sequence of embeddings and what a model takes beside it as one tensor, so that a row of it is a condition.

    Args:
        sequence: float32 [B, L, D].
        vectors: [B, V] each, which fill the rows below it, the last one padded with zeros.

    Returns:
        float32 [B, L + ⌈ΣV / D⌉, D].
    """
    if not vectors:
        return sequence
    beside, width = torch.cat(vectors, dim=1).to(sequence.dtype), sequence.shape[2]
    rows = functional.pad(beside, (0, -beside.shape[1] % width)).view(len(sequence), -1, width)
    return torch.cat([sequence, rows], dim=1)


def unpacked(condition: torch.Tensor, *widths: int) -> list[torch.Tensor]:
    """The sequence [B, L, D] and the vectors [B, V], of these widths, that `packed` made a condition of."""
    rows = -(-sum(widths) // condition.shape[2])
    length = condition.shape[1] - rows
    beside = condition[:, length:].flatten(1)
    return [condition[:, :length], *beside[:, : sum(widths)].split(list(widths), dim=1)]


@dataclass(frozen=True)
class Encoded:
    """What a text encoder makes of a prompt.

    states: float32 [1, L, D], of each token.
    mask: float32 [1, L], 1 for the prompt's tokens and 0 for padding.
    pooled: float32 [1, P], of the whole prompt; None for an encoder without that.
    """

    states: torch.Tensor
    mask: torch.Tensor
    pooled: torch.Tensor | None


class TextEncoder:
    """A tokenizer and the network that reads its tokens.

    Args:
        tokenizer: of transformers.
        network: a `CLIPTextModel`, `CLIPTextModelWithProjection` or `T5EncoderModel` in eval mode.
        length: tokens that a prompt is padded to, and cut off after; None = the tokenizer's `model_max_length`.
        penultimate: take the states of the layer before the last one, without the final norm.
        masked: keep the network from attending to padding.
        prepare: what is made of a prompt before it is split into tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        network: torch.nn.Module,
        length: int | None = None,
        penultimate: bool = False,
        masked: bool = False,
        prepare: Callable[[str], str] = str,
    ) -> None:
        self.tokenizer, self.network = tokenizer, network.eval().requires_grad_(False)
        self.length = tokenizer.model_max_length if length is None else length
        self.penultimate, self.masked, self.prepare = penultimate, masked, prepare
        self._config: Any = network.config

    @property
    def width(self) -> int:
        """D of the states."""
        return int(self._config.hidden_size)

    @property
    def pooled_width(self) -> int:
        """P of what is pooled."""
        projected = type(self.network).__name__.endswith("WithProjection")
        return int(self._config.projection_dim if projected else self._config.hidden_size)

    @torch.no_grad()
    def __call__(self, prompt: str) -> Encoded:
        """What it makes of a prompt, on its device, in float32 whatever the autocast."""
        device = next(self.network.parameters()).device
        tokens = self.tokenizer(
            self.prepare(prompt), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(device)
        given = {"attention_mask": tokens.attention_mask} if self.masked else {}
        with torch.autocast(device.type, enabled=False):
            found = self.network(tokens.input_ids, output_hidden_states=self.penultimate, **given)
        states = found.hidden_states[-2] if self.penultimate else found.last_hidden_state
        pooled = getattr(found, "text_embeds", getattr(found, "pooler_output", None))
        return Encoded(states.float(), tokens.attention_mask.float(), None if pooled is None else pooled.float())


def sequence_of(encoded: Sequence[Encoded]) -> torch.Tensor:
    """The states of the only text encoder, as Stable Diffusion 1 and 2 take them."""
    (only,) = encoded
    return only.states


class PromptEncoder:
    """The text encoders of a model, and how it takes what they make of a prompt.

    Each prompt is encoded alone, so that its condition depends on no other, and once while it is kept.

    Args:
        parts: the text encoders.
        combine: makes the condition, float32 [1, L, D], of what each of them makes of one prompt.
        zero_null: the null condition of classifier-free guidance is zeros, not that of the empty prompt.
    """

    def __init__(
        self,
        parts: Sequence[TextEncoder],
        combine: Callable[[Sequence[Encoded]], torch.Tensor] = sequence_of,
        zero_null: bool = False,
    ) -> None:
        self.parts, self.combine, self.zero_null = list(parts), combine, zero_null
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def to(self, device: torch.device | str) -> Self:
        """Move the text encoders; returns itself."""
        for part in self.parts:
            part.network.to(device)
        return self

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """The conditions of B prompts, float32 [B, L, D] on the device of the text encoders."""
        device = next(self.parts[0].network.parameters()).device
        found = {prompt: self._condition(prompt) for prompt in dict.fromkeys(prompts)}
        most = max(1, KEPT_BYTES // next(iter(found.values())).nbytes)
        while len(self._kept) > most:
            self._kept.popitem(last=False)
        return torch.cat([found[prompt] for prompt in prompts]).to(device)

    def null(self) -> torch.Tensor:
        """The condition of classifier-free guidance that stands for no prompt, float32 [1, L, D]."""
        empty = self([""])
        return torch.zeros_like(empty) if self.zero_null else empty

    def _condition(self, prompt: str) -> torch.Tensor:
        if prompt not in self._kept:
            self._kept[prompt] = self.combine([part(prompt) for part in self.parts]).cpu()
        self._kept.move_to_end(prompt)
        return self._kept[prompt]
