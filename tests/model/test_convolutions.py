"""The convolutional network beside the towers: its layers against NumPy, its shifts and its stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_network
from torch import Tensor

from model.convolutions import CHANNELS, GROUPS, SHIFT, Convolutions, Residual, _shifted
from model.networks import NETWORKS
from train.stages import freeze, train_mode

SETTINGS = {"convolutions": True, "wide": True, "sequence_norm": "gated", "head_inputs": "both"}


def images(count: int, size: int = 64) -> Tensor:
    return torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def convolutions(dropout: float = 0.0) -> Convolutions:
    torch.manual_seed(0)
    return Convolutions(24, 64, dropout)


def convolved(x_CHW: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """A loop over the places, float64."""
    reach = weight.shape[-1] // 2
    padded = np.pad(x_CHW, ((0, 0), (reach, reach), (reach, reach)))
    places = range(0, x_CHW.shape[1], stride)
    rows = [
        [np.tensordot(weight, padded[:, y : y + 2 * reach + 1, x : x + 2 * reach + 1], axes=3) for x in places]
        for y in places
    ]
    return np.array(rows).transpose(2, 0, 1)


def normed(x_CHW: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    groups = x_CHW.reshape(GROUPS, -1)
    spread = np.sqrt(groups.var(axis=1, keepdims=True) + 1e-5)
    even = ((groups - groups.mean(axis=1, keepdims=True)) / spread).reshape(x_CHW.shape)
    return even * weight[:, None, None] + bias[:, None, None]


@torch.no_grad()
def test_a_block_equals_a_loop_over_places():
    torch.manual_seed(1)
    block, x = Residual(8, 16), torch.randn(1, 8, 6, 6)
    for parameter in block.parameters():
        parameter += 0.3 * torch.randn(parameter.shape)
    weights = {name: value.double().numpy() for name, value in block.state_dict().items()}

    def layer(values: np.ndarray, part: str, at: int, stride: int = 1) -> np.ndarray:
        values = convolved(values, weights[f"{part}.{at}.weight"], stride)
        return normed(values, weights[f"{part}.{at + 1}.weight"], weights[f"{part}.{at + 1}.bias"])

    given = x[0].double().numpy()
    straight = layer(given.reshape(8, 3, 2, 3, 2).mean(axis=(2, 4)), "straight", 1)
    curved = layer(np.maximum(layer(given, "curved", 0, stride=2), 0), "curved", 3)
    np.testing.assert_allclose(block(x)[0].numpy(), np.maximum(straight + curved, 0), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_gives_the_means_and_the_maxima_of_the_last_block():
    network, pixels, seen = convolutions().eval(), images(3), []
    network.blocks.register_forward_hook(lambda *found: seen.append(found[2]))
    found = network(pixels)
    last = seen[0].flatten(2)
    assert last.shape == (3, CHANNELS[-1], 16)
    both = torch.cat([last.mean(dim=2), last.max(dim=2).values], dim=1)
    torch.testing.assert_close(found, both @ network.to_width.weight.T + network.to_width.bias)
    alone = torch.cat([network(pixels[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_training_shifts_a_batch_and_repeats_its_border():
    image = images(2).permute(0, 3, 1, 2).float()
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
    places = set()
    for _ in range(20):
        shifted = _shifted(image).numpy()
        steps = range(2 * SHIFT + 1)
        found = [(y, x) for y in steps for x in steps if (padded[:, :, y : y + 64, x : x + 64] == shifted).all()]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 5


def test_nothing_is_shifted_or_dropped_where_it_serves():
    network, pixels = convolutions(dropout=0.5), images(2)
    trained = [network.train()(pixels) for _ in range(2)]
    served = [network.eval()(pixels) for _ in range(2)]
    assert not torch.equal(*trained) and torch.equal(*served)


@torch.no_grad()
def test_larger_images_are_seen_at_64_pixels():
    network, pixels = convolutions().eval(), images(2)
    double = Convolutions(24, 128, 0.0).eval()
    double.load_state_dict(network.state_dict())
    larger = pixels.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    torch.testing.assert_close(double(larger), network(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("stage", "is_trained"), [("contrastive", False), ("warmup", True), ("end_to_end", True), ("tuning", False)]
)
def test_it_is_trained_with_sequence_attention(stage, is_trained: bool):
    network, architecture = tiny_network(tiny_config(**SETTINGS)), NETWORKS["cma_clip"]
    freeze(network, stage, architecture)
    train_mode(network, stage, architecture)
    assert network.convolutions is not None
    assert {parameter.requires_grad for parameter in network.convolutions.parameters()} == {is_trained}
    assert network.convolutions.training == is_trained


@torch.no_grad()
def test_it_joins_the_image_and_no_title():
    network, inputs = tiny_network(tiny_config(**SETTINGS)).eval(), (torch.tensor([[8190, 40, 8191]]), images(1))
    plain = tiny_network(tiny_config(**SETTINGS | {"convolutions": False})).eval()
    assert not plain.load_state_dict(network.state_dict(), strict=False).missing_keys
    title, image = (torch.tensor([[side == 0, side == 1]]) for side in range(2))
    torch.testing.assert_close(network(*inputs, title).logits_BC, plain(*inputs, title).logits_BC)
    assert not torch.allclose(network(*inputs, image).logits_BC, plain(*inputs, image).logits_BC, atol=1e-2)


def test_other_architectures_do_not_ignore_the_setting():
    with pytest.raises(ValueError, match="convolutions: only cma_clip has such a part beside its towers, not mmbt"):
        tiny_config(architecture="mmbt", convolutions=True)
