"""CLIP's two towers, from any open_clip ViT model, as token sequences of one width (paper, section 2.1)."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from torch import Tensor, nn

from model.config import ModelConfig, PreprocessConfig

# B batch, T text tokens, P image tokens, D width of CLIP's embedding, V width of a tower

OpenClip = Any  # open_clip's models have no useful types

open_clip.add_model_config(Path(__file__).parent / "clip_configs")


class TokenSequences(NamedTuple):
    """T_CLS, T_1 ... and I_CLS, I_1 ..., all projected to one width.

    text_BTD: T_CLS (taken from the end-of-text position) first, then start token and words.
    image_BPD: I_CLS first, then the patches row by row.
    text_mask_BT: True where there is a token, False at padding.
    """

    text_BTD: Tensor
    image_BPD: Tensor
    text_mask_BT: Tensor


class ClipTowers(nn.Module):
    """Both towers of an open_clip model.

    Args:
        clip: from `create_clip`.
        preprocess: its mean and std normalise the pixels inside the graph.
    """

    def __init__(self, clip: OpenClip, preprocess: PreprocessConfig) -> None:
        super().__init__()
        self.clip: OpenClip = clip
        clip.visual.output_tokens = True
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)

    @property
    def width(self) -> int:
        return self.clip.visual.proj.shape[1]

    @property
    def image_tokens(self) -> int:
        return self.clip.visual.positional_embedding.shape[0]

    def forward(self, input_ids_BT: Tensor, pixels_BHWC: Tensor) -> TokenSequences:
        """Token ids (integers) and pixels (uint8) to token sequences.

        T may be any length up to the context length: the text tower is causal and what stands
        behind the end of text is masked, so cutting it off changes nothing.
        """
        text_BTD, image_BPD = self.encode_text(input_ids_BT), self.encode_image(pixels_BHWC)
        return TokenSequences(text_BTD, image_BPD, text_mask(input_ids_BT))

    def encode_text(self, input_ids_BT: Tensor) -> Tensor:
        """Returns the text tokens [B, T, D], the end token's first."""
        clip, length = self.clip, input_ids_BT.shape[1]
        x_BTV = clip.token_embedding(input_ids_BT) + clip.positional_embedding[:length]
        x_BTV = clip.transformer(x_BTV, attn_mask=clip.attn_mask[:length, :length])
        tokens_BTD = clip.ln_final(x_BTV) @ clip.text_projection
        index_B1D = text_end(input_ids_BT).view(-1, 1, 1).expand(-1, 1, tokens_BTD.shape[2])
        return torch.cat([tokens_BTD.gather(1, index_B1D), tokens_BTD[:, :-1]], dim=1)

    def encode_image(self, pixels_BHWC: Tensor) -> Tensor:
        """Returns the image tokens [B, P, D]."""
        normalised = (pixels_BHWC.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        pooled_BD, patches_BPV = self.clip.visual(normalised)
        return torch.cat([pooled_BD.unsqueeze(1), patches_BPV @ self.clip.visual.proj], dim=1)


def text_end(input_ids_BT: Tensor) -> Tensor:
    """The position of the end token, [B]: it has the largest id. Padding is 0, which is also the word "!"."""
    return input_ids_BT.argmax(dim=1)


def text_mask(input_ids_BT: Tensor) -> Tensor:
    """True up to the end token, False at the padding behind it; bool [B, T]."""
    positions_T = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
    return positions_T <= text_end(input_ids_BT)[:, None]


def create_clip(config: ModelConfig, load_weights: bool = True) -> OpenClip:
    """The open_clip model that `config.clip` names, with `config.pretrained` weights if wanted.

    Raises:
        ValueError: unknown model; no ViT with CLIP's causal text tower; weights that cannot be had.
    """
    if config.clip not in open_clip.list_models():
        raise ValueError(f"model.clip: open_clip has no model {config.clip!r}; see open_clip.list_models()")
    pretrained = config.pretrained if load_weights else None
    if pretrained and not os.path.isfile(pretrained):
        tags = open_clip.list_pretrained_tags_by_model(config.clip)
        if pretrained not in tags:
            raise ValueError(
                f"model.pretrained: {pretrained!r} is neither a file nor a weight tag of {config.clip}"
                f" (its tags: {', '.join(tags) or 'none'})"
            )
        quick = open_clip.get_pretrained_cfg(config.clip, pretrained).get("quick_gelu", False)
        if quick != open_clip.get_model_config(config.clip).get("quick_gelu", False):
            other = "the one with" if quick else "the one without"
            raise ValueError(
                f"model.clip: the weights {pretrained!r} do not fit {config.clip}'s activation;"
                f" take {other} -quickgelu in its name"
            )
    logging.disable(logging.ERROR)  # open_clip warns of random weights even where they were asked for
    try:
        # DeepSpeed cannot broadcast a parameter of no dimension.
        options = {"pretrained_text": False, "nonscalar_logit_scale": True}
        clip = open_clip.create_model(config.clip, pretrained=pretrained, **options)
    except Exception as error:  # the hub's client raises many types; a bad file raises torch's own
        if not pretrained:
            raise
        raise ValueError(
            f"model.pretrained: the weights {pretrained!r} of {config.clip} cannot be loaded: "
            f"{str(error).splitlines()[0]}. Without network, give a local file: --model.pretrained FILE"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    _check_supported(clip, config.clip)
    return clip


def _check_supported(clip: OpenClip, name: str) -> None:
    visual = clip.visual
    is_vit = getattr(visual, "pool_type", None) == "tok" and visual.attn_pool is None and visual.proj is not None
    is_causal = getattr(clip, "attn_mask", None) is not None and clip.text_pool_type == "argmax"
    if not (is_vit and is_causal and isinstance(clip.text_projection, nn.Parameter)):
        raise ValueError(f"model.clip: {name} is not a ViT with CLIP's causal text tower; take one of the ViT- models")


def preprocess_config(clip: OpenClip) -> PreprocessConfig:
    """The preprocessing that an open_clip model was made for.

    Raises:
        ValueError: it asks for another interpolation or another crop than CLIP's.
    """
    wanted = clip.visual.preprocess_cfg
    if (wanted["interpolation"], wanted["resize_mode"]) != ("bicubic", "shortest"):
        raise ValueError(f"model.clip: preprocessing {wanted} is not supported, only bicubic with resize_mode shortest")
    size, length = clip.visual.image_size, clip.context_length
    defaults = PreprocessConfig()
    return PreprocessConfig(
        image_size=size[0] if isinstance(size, tuple) else size,
        mean=wanted["mean"],
        std=wanted["std"],
        context_length=length,
        title_lengths=(*(n for n in defaults.title_lengths if n < length), length),
        vocab_size=clip.vocab_size,
    )
