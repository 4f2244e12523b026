"""A trained network on disk: config.json, tokenizer.json, model.safetensors; loading needs nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cma_clip.files import file_sha256, new_directory, write_atomically
from model.clip_towers import create_clip, preprocess_config
from model.cma_clip import Network
from model.config import BundleConfig, ModelConfig, PreprocessConfig
from model.networks import create_network
from model.preprocess import TitleTokenizer, pixels_and_presence
from model.tasks import TaskSet
from model.tokenizer import build_tokenizer

# B batch, T token ids, C labels of all tasks, K tasks


class Bundle:
    """A network with its configuration and tokenizer, in evaluation mode."""

    def __init__(self, config: BundleConfig, network: Network, tokenizer: TitleTokenizer) -> None:
        self.config, self.network, self.tokenizer = config, network.eval(), tokenizer

    def prepare(self, products: Sequence[tuple[str | bytes, bytes]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Titles and encoded images (either may be empty) to input_ids [B,T], pixels [B,H,W,3], present [B,2].

        Raises:
            Refusal: of a product.
        """
        parts = (pixels_and_presence(*product, self.config.preprocess) for product in products)
        pixels, present = zip(*parts, strict=True)
        return self.tokenizer.encode_batch([title for title, _ in products]), np.stack(pixels), np.array(present)

    @torch.inference_mode()
    def scores(self, products: Sequence[tuple[str | bytes, bytes]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores [B, L] of all tasks side by side, λ [B, K], and present [B, 2], of products as `prepare` takes them.

        Raises:
            Refusal: as `prepare`.
        """
        inputs = self.prepare(products)
        logits, text_share = self.network(*(torch.from_numpy(array) for array in inputs))
        return self.config.tasks.scores(logits.float().numpy()), text_share.numpy(), inputs[2]

    def classify(self, products: Sequence[tuple[str | bytes, bytes]]) -> list[dict[str, Any]]:
        """The answers that the server gives for these products, computed in this process.

        Raises:
            Refusal: as `prepare`.
        """
        return self.config.tasks.predictions(*self.scores(products))


def save_bundle(directory: Path, config: BundleConfig, network: nn.Module) -> None:
    """Write a bundle in one step; what stood there before stays until it is complete."""
    with new_directory(directory) as partial:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        _save_weights(weights, partial / "model.safetensors")
        build_tokenizer(config.preprocess.vocab_size).save(str(partial / "tokenizer.json"))
        # safetensors writes for the owner only; the server may run as somebody else.
        (partial / "model.safetensors").chmod((partial / "tokenizer.json").stat().st_mode)
        names = {"tokenizer_sha256": "tokenizer.json", "weights_sha256": "model.safetensors"}
        config = config.model_copy(update={key: file_sha256(partial / name) for key, name in names.items()})
        write_atomically(partial / "config.json", config.model_dump_json(indent=2) + "\n")


def _save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """save_file, whose error is an OSError again when the disk is full."""
    try:
        save_file(weights, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load_bundle(directory: Path) -> Bundle:
    """Rebuild the network on the CPU.

    Raises:
        ValueError: a file is missing, or does not fit the others; the message names it.
    """
    config = BundleConfig.read(directory / "config.json")
    network, _ = build_network(config.model, config.tasks, config.preprocess, directory / "model.safetensors")
    config.check_weights(directory / "model.safetensors")
    config.check_tokenizer(directory / "tokenizer.json")
    return Bundle(config, network, TitleTokenizer.load(directory / "tokenizer.json", config.preprocess))


def build_network(
    model: ModelConfig, tasks: TaskSet, preprocess: PreprocessConfig | None = None, weights: Path | None = None
) -> tuple[Network, PreprocessConfig]:
    """A network, float32 on the CPU, and the preprocessing it is made for.

    Args:
        preprocess, weights: those of a bundle. Without them the towers are pretrained or random, as `model` says,
            and all else is random; only pretrained weights know their normalisation.
    Raises:
        ValueError: weights that cannot be had or do not fit.
    """
    clip = create_clip(model, load_weights=weights is None)
    preprocess = preprocess or preprocess_config(clip)
    network = create_network(model, preprocess, tasks, clip)
    if weights:
        load_weights(network, weights)
    return network, preprocess


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill the network from a safetensors file.

    Raises:
        ValueError: the file is missing, damaged, or of another network.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{path}: these weights do not fit config.json: {' '.join(str(error).split())[:300]}"
        ) from error
