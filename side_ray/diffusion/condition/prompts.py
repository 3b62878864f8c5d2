"""Prompts of text-conditioned models: what encodes them, as Stable Diffusion 1 and 2 do."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Self

import torch

MOST_KEPT = 1024
"""Prompts whose embeddings are kept: a quarter of a GiB for Stable Diffusion 1."""


class PromptEncoder:
    """A tokenizer and a text encoder, whose last hidden states the U-Net attends to.

    Prompts are padded to, and cut off after, the tokenizer's `model_max_length` tokens, as diffusers' pipelines do. Each is
    encoded alone, in float32 whatever the autocast, so that its embedding depends on no other, and once while it is kept.

    Args:
        tokenizer: a `CLIPTokenizer`.
        network: a `CLIPTextModel` in eval mode.
    """

    def __init__(self, tokenizer: Any, network: torch.nn.Module) -> None:
        self.tokenizer, self.network = tokenizer, network.eval().requires_grad_(False)
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    @property
    def width(self) -> int:
        """D of the embeddings."""
        config: Any = self.network.config
        return int(config.hidden_size)

    def to(self, device: torch.device | str) -> Self:
        """Move the text encoder; returns itself."""
        self.network.to(device)
        return self

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """The embeddings of B prompts, float32 [B, L, D] on the device of the text encoder."""
        device = next(self.network.parameters()).device
        found = {prompt: self._embedding(prompt, device) for prompt in dict.fromkeys(prompts)}
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return torch.cat([found[prompt] for prompt in prompts]).to(device)

    def _embedding(self, prompt: str, device: torch.device) -> torch.Tensor:
        if prompt not in self._kept:
            length, config = self.tokenizer.model_max_length, self.network.config
            tokens = self.tokenizer(
                prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            mask = tokens.attention_mask.to(device) if getattr(config, "use_attention_mask", False) else None
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                states: torch.Tensor = self.network(tokens.input_ids.to(device), attention_mask=mask)[0]
            self._kept[prompt] = states.float().cpu()
        self._kept.move_to_end(prompt)
        return self._kept[prompt]
