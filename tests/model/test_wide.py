"""The wide part: its statistics against NumPy's, its title against a loop, and who may speak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TASKS, tiny_config, tiny_network

from model.evidence import compare
from model.image_statistics import FEATURES, ImageStatistics
from model.wide import Linear, WidePart
from train.rivals.image_features import image_features

VOCAB = 8192
TITLES = torch.tensor([[VOCAB - 2, 40, 50, VOCAB - 1], [VOCAB - 2, 60, VOCAB - 1, 0]])
WIDE = {"wide": True, "sequence_norm": "gated", "head_inputs": "both"}


def images(count: int, size: int) -> np.ndarray:
    """Smooth, noisy, striped and plain ones."""
    rng, place = np.random.default_rng(0), np.arange(size)
    waves = [127 + 120 * np.sin(place * rng.uniform(0.05, 3) + channel) for channel in range(3) for _ in range(count)]
    striped = np.stack(waves).reshape(count, 3, 1, size).transpose(0, 2, 3, 1) * np.ones((1, size, 1, 1))
    noisy = rng.integers(0, 256, (count, size, size, 3))
    plain = np.full((count, size, size, 3), 255)
    return np.concatenate([striped, striped.transpose(0, 2, 1, 3), noisy, plain]).astype(np.uint8)


def wide_part() -> WidePart:
    """With random weights, and a mismatch behind the tasks."""
    torch.manual_seed(0)
    part = WidePart(TASKS.with_mismatch(), 16, VOCAB, 64)
    part.fit(part.statistics(torch.from_numpy(images(2, 64))), TITLES)
    for task, labels in enumerate((3, 2)):
        sizes = (labels,), (part.terms.rows, labels), (FEATURES, labels)
        models = [Linear(*(torch.randn(size) for size in sizes)) for _ in range(3)]
        part.set_task(task, torch.randn(labels), models)
    part.words *= 0.3
    part.statistics_to_logits *= 2
    return part


def test_statistics_equal_those_of_numpy():
    pixels = images(3, 64)
    found = ImageStatistics(64)(torch.from_numpy(pixels)).numpy()
    assert found.shape == (12, FEATURES) and found.dtype == np.float32
    np.testing.assert_allclose(found, image_features(pixels), rtol=1e-3, atol=1e-3)


def test_channels_of_equal_gradients_do_not_depend_on_rounding():
    place = np.arange(64)
    along_x, along_y = (np.broadcast_to(3 * line, (64, 64)) for line in (place, place[:, None]))
    pixels = torch.from_numpy(np.stack([along_x, along_y + 40, along_x + 17], axis=2).astype(np.uint8)[None])
    statistics = ImageStatistics(64)
    unit_B3SS = pixels.permute(0, 3, 1, 2) / 255
    noise_B3SS = 1e-7 * torch.randn(unit_B3SS.shape, generator=torch.Generator().manual_seed(0))
    found, other = (statistics.gradients(image) for image in (unit_B3SS, unit_B3SS + noise_B3SS))
    torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(statistics(pixels).numpy(), image_features(pixels.numpy()), rtol=1e-3, atol=1e-3)


def test_images_of_another_size_count_by_the_mean_of_their_parts():
    small = images(2, 64)
    large = small.repeat(3, axis=1).repeat(3, axis=2)
    expected, found = (ImageStatistics(x.shape[1])(torch.from_numpy(x)).numpy() for x in (small, large))
    np.testing.assert_allclose(found[4:], expected[4:], rtol=1e-2, atol=1e-2)  # in stripes colours lie on a limit
    assert ImageStatistics(224)(torch.from_numpy(images(1, 224))).isfinite().all()


MASK = torch.tensor([[True] * 4, [True] * 3 + [False]])
BOTH = torch.ones(2, 2, dtype=torch.bool)


def test_labels_are_told_by_what_is_there_each_by_a_model_of_its_own():
    part, pixels, rows, weights = wide_part(), torch.from_numpy(images(1, 64)[:2]), *wide_part().terms(TITLES, MASK)
    title = torch.stack(
        [
            sum(weight * part.words[row] for row, weight in zip(rows[n].tolist(), weights[n], strict=True))
            for n in range(2)
        ]
    )
    image = part.standardised(part.statistics(pixels)) @ part.statistics_to_logits.T
    expected = {
        (True, True): part.intercepts[0] + title[:, :6] + image[:, :6],
        (True, False): part.intercepts[1] + title[:, 6:],
        (False, True): part.intercepts[2] + image[:, 6:],
    }
    for present, logits in expected.items():
        found = part(TITLES, MASK, pixels, torch.tensor([present] * 2)).logits_BC
        torch.testing.assert_close(found[:, :5], logits[:, :5], rtol=1e-4, atol=1e-4)


def test_a_title_of_no_known_word_counts_as_none():
    part, pixels = wide_part(), torch.from_numpy(images(1, 64)[:2])
    rows, _ = part.terms(TITLES, MASK)
    part.words[rows[0]] = 0
    part.words[rows[1, 0]] = 1.0
    said, image = (part(TITLES, MASK, pixels, BOTH & torch.tensor(own)) for own in ([True, True], [False, True]))
    torch.testing.assert_close(said.logits_BC[0, :5], image.logits_BC[0, :5])
    assert not torch.allclose(said.logits_BC[1, :5], image.logits_BC[1, :5], atol=1e-2)


def test_evidence_is_the_agreement_and_the_gain_and_mismatch_is_what_disagrees():
    part, pixels = wide_part(), torch.from_numpy(images(1, 64)[:2])
    both, title, image = (
        part(TITLES, MASK, pixels, BOTH & torch.tensor(own)) for own in ([True, True], [True, False], [False, True])
    )
    agreement = torch.zeros(2)
    for k, own in enumerate((slice(0, 3), slice(3, 5))):
        found = compare(part.frequent[own], *(said.logits_BC[:, own] for said in (title, image, both)), False)
        torch.testing.assert_close(both.evidence_BK[:, k], (found.agreement_B + found.title_gain_B).clamp(-3, 3))
        agreement += found.agreement_B
    torch.testing.assert_close(both.logits_BC[:, 5], -agreement)
    assert both.evidence_BK[:, :2].abs().min() > 0.01
    assert not both.evidence_BK[:, 2].any(), "of mismatch itself nothing speaks"


def test_statistics_are_standardised_by_the_images_that_it_was_fitted_on():
    part, pixels = wide_part(), torch.from_numpy(images(40, 64))
    part.fit(part.statistics(pixels), TITLES)
    found = part.standardised(part.statistics(pixels)).double() * FEATURES**0.5
    varies = found.std(dim=0) > 0
    assert 0.9 * FEATURES < varies.sum() < FEATURES, "no image here has every colour"
    torch.testing.assert_close(found.mean(dim=0), torch.zeros_like(found[0]), rtol=0, atol=1e-3)
    deviation = found.std(dim=0, correction=0)[varies]
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=1e-3, atol=0)


def test_parts_are_joined_as_strong_as_they_are_for_each_task():
    part, deep, wide = wide_part(), torch.randn(2, 6), torch.randn(2, 6)
    assert torch.equal(part.joined(deep, wide), deep), "until something is known"
    part.join(torch.tensor([[0.5, 2.0, 1.0], [3.0, 0.0, 4.0]]))
    expected = torch.cat([0.5 * deep[:, :3] + 3 * wide[:, :3], 2 * deep[:, 3:5], deep[:, 5:] + 4 * wide[:, 5:]], dim=1)
    torch.testing.assert_close(part.joined(deep, wide), expected)
    part.join(None)
    assert torch.equal(part.joined(deep, wide), deep)


def test_it_is_not_trained_but_for_what_joins_the_image():
    part = wide_part()
    assert sorted(name for name, _ in part.named_parameters()) == ["to_width.bias", "to_width.weight"]


@pytest.mark.parametrize("side", [0, 1])
@torch.no_grad()
def test_an_absent_modality_says_nothing(side: int):
    network = tiny_network(tiny_config(**WIDE)).eval()
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    network.wide.load_state_dict({name: torch.rand(x.shape) for name, x in network.wide.state_dict().items()})
    ids = torch.tensor([[8190, 40, 50, 8191], [8190, 60, 70, 8191]], dtype=torch.int32)
    pixels = torch.from_numpy(images(1, 64)[[0, 2]])
    present = torch.ones(2, 2, dtype=torch.bool)
    present[:, side] = False
    other = [ids.flip(0), pixels] if side == 0 else [ids, pixels.flip(0)]
    expected, found = (network(*inputs, present).logits_BC for inputs in ([ids, pixels], other))
    torch.testing.assert_close(found, expected)
    both = torch.ones_like(present)
    assert not torch.allclose(network(*other, both).logits_BC, network(ids, pixels, both).logits_BC, atol=1e-2)


@torch.no_grad()
def test_it_starts_as_nothing_but_what_joins_the_image():
    inputs = torch.tensor([[8190, 40, 8191]]), torch.from_numpy(images(1, 64)[:1]), torch.tensor([[True, False]])
    wide, plain = (tiny_network(tiny_config(**WIDE | {"wide": wide})).eval() for wide in (True, False))
    assert not wide.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    torch.testing.assert_close(wide(*inputs).logits_BC, plain(*inputs).logits_BC)


def test_other_architectures_do_not_ignore_the_setting():
    with pytest.raises(ValueError, match="wide: only cma_clip has such a part beside its towers, not late_fusion"):
        tiny_config(architecture="late_fusion", wide=True)
