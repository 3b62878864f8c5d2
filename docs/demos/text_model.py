"""Makes a small text-conditioned model of Stable Diffusion's classes, and LoRA weights for it that memorised 40 captioned images,
to be audited by `jobs/configs/text.yaml`. It needs the extra `text`.

    python -m docs.demos.text_model runs/text-model

Disjoint patches of the two photographs in scikit-learn are split at random: `train/`, which the LoRA weights are trained on,
`unseen/`, and the others, which the model itself is trained on. Beside each image stands its caption.
"""

import json
import string
import tempfile
from pathlib import Path

import torch
import typer
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch.nn.functional import mse_loss
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from docs.demos.latent_model import BATCH, SEED, encoded, make_vae, noised, patches, save_images, train

TRAIN, UNSEEN = 40, 120
WIDTH, LENGTH = 32, 16
"""Of the embeddings of a caption."""
STEPS, LORA_STEPS, RANK = 1000, 800, 32
DROPPED = 0.1
"""Share of the captions that the training of the model replaces by the empty prompt. That of the LoRA weights replaces none."""
LORA_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single letters."""
    letters = string.ascii_lowercase
    names = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as directory:
        vocabulary, merges = Path(directory) / "vocab.json", Path(directory) / "merges.txt"
        vocabulary.write_text(json.dumps({name: number for number, name in enumerate(names)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=LENGTH, pad_token="<|endoftext|>")


def make_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    size = len(tokenizer)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return CLIPTextModel(config)


def make_unet(z0: torch.Tensor) -> UNet2DConditionModel:
    """For latents [N, 4, 8, 8]. It attends to the caption where it has 4 × 4 pixels."""
    return UNet2DConditionModel(
        sample_size=z0.shape[-1],
        in_channels=z0.shape[1],
        out_channels=z0.shape[1],
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )


def fit(
    pipeline: StableDiffusionPipeline,
    module: torch.nn.Module,
    steps: int,
    lr: float,
    z0: torch.Tensor,
    captions: list[str],
    dropped: float = 0,
) -> None:
    """Train `module`, a part of the pipeline, on latents [N, 4, 8, 8] and their captions.

    Args:
        dropped: share of the captions that the empty prompt replaces.
    """
    settings = {"padding": "max_length", "max_length": LENGTH, "return_tensors": "pt"}
    tokens = pipeline.tokenizer([*captions, ""], **settings).input_ids

    def loss(step: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(step)
        rows = torch.randint(len(z0), (BATCH,), generator=random)
        t, noise, z_t = noised(z0[rows], random, pipeline.scheduler)
        empty = torch.rand(BATCH, generator=random) < dropped
        states = pipeline.text_encoder(tokens[torch.where(empty, len(captions), rows)])[0]
        return mse_loss(pipeline.unet(z_t, t, states).sample, noise)

    train(module, steps, lr, loss)


def main(directory: Path) -> None:
    """Make the model, its LoRA weights and its images in DIRECTORY."""
    images, captions = patches()
    unseen = TRAIN + UNSEEN
    save_images(images[:TRAIN], directory / "train", captions[:TRAIN])
    save_images(images[TRAIN:unseen], directory / "unseen", captions[TRAIN:unseen])
    vae = make_vae()
    z0 = encoded(vae, images)
    tokenizer = make_tokenizer()
    torch.manual_seed(SEED)
    encoder, unet = make_encoder(tokenizer), make_unet(z0)
    pipeline = StableDiffusionPipeline(
        vae, encoder, tokenizer, unet, DDPMScheduler(clip_sample=False), None, None, requires_safety_checker=False
    )
    both = torch.nn.ModuleList([unet, encoder])
    fit(pipeline, both, STEPS, 2e-3, z0[unseen:], captions[unseen:], DROPPED)
    pipeline.save_pretrained(directory / "model")
    both.requires_grad_(False)
    torch.manual_seed(SEED)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LORA_LAYERS))
    fit(pipeline, unet, LORA_STEPS, 4e-3, z0[:TRAIN], captions[:TRAIN])
    StableDiffusionPipeline.save_lora_weights(
        directory, get_peft_model_state_dict(unet), weight_name="lora.safetensors"
    )


if __name__ == "__main__":
    typer.run(main)
