"""The network against an independent computation, and what must not change its answer."""

from __future__ import annotations

import numpy as np
import paper_network
import pytest
import torch
from tiny import TASKS, tiny_config, tiny_network

from model.clip_towers import create_clip, preprocess_config
from model.config import ModelConfig
from model.preprocess import TitleTokenizer
from model.tasks import MultiLabel
from model.tokenizer import build_tokenizer

TITLES = ["Rosewood red dress!", "a very long ! title of a polka dot dress by Bluebell ! with ! pockets", ""]
BOTH = torch.ones(3, 2, dtype=torch.bool)
ROBUST = {"sequence_norm": "gated", "head_inputs": "both"}


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    preprocess = preprocess_config(create_clip(tiny_config()))
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return torch.from_numpy(tokenizer.encode_batch(TITLES)), pixels


def spread(network: torch.nn.Module) -> torch.nn.Module:
    """Weights far from their small initial values, so that a wrong term shows."""
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return network.eval()


@torch.no_grad()
def test_forward_equals_the_papers_formulas(inputs):
    config = tiny_config()
    network = spread(tiny_network(config)).double()
    input_ids, pixels = inputs
    logits, text_share = network(input_ids, pixels, BOTH)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    for row in range(3):
        ids = input_ids[row, : int(input_ids[row].argmax()) + 1].tolist()
        expected = paper_network.forward(
            weights, ids, pixels[row].numpy(), layers=config.sequence_layers, heads=config.sequence_heads, labels=[3, 2]
        )
        np.testing.assert_allclose(logits[row].numpy(), expected[0], rtol=1e-5, atol=1e-6)  # λ is float32
        np.testing.assert_allclose(text_share[row].numpy(), expected[1], rtol=1e-6)


@torch.no_grad()
def test_cut_titles_give_the_same_answer_as_77_tokens(inputs):
    network = spread(tiny_network())
    input_ids, pixels = inputs
    padded = torch.nn.functional.pad(input_ids, (0, 77 - input_ids.shape[1]))
    assert input_ids.shape[1] < 77
    for short, long in zip(network(input_ids, pixels, BOTH), network(padded, pixels, BOTH), strict=True):
        torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, ROBUST])
@pytest.mark.parametrize(("present", "share"), [((True, False), 1.0), ((False, True), 0.0)])
def test_P1_absent_modality_has_no_share_and_no_influence(inputs, present, share, settings):
    network = spread(tiny_network(tiny_config(**settings)))
    input_ids, pixels = inputs
    mask = torch.tensor([present]).expand(3, 2)
    logits, text_share = network(input_ids, pixels, mask)
    assert (text_share == share).all()
    other_ids = input_ids if present[0] else input_ids.flip(0)
    other_pixels = pixels if present[1] else 255 - pixels
    torch.testing.assert_close(network(other_ids, other_pixels, mask).logits_BC, logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(network(input_ids, pixels, BOTH).logits_BC, logits, atol=1e-3)


@torch.no_grad()
def test_without_modality_attention_lambda_is_one_half(inputs):
    network = tiny_network(tiny_config(modality_attention=False)).eval()
    assert not any("relevance" in name for name, _ in network.named_parameters())
    logits, text_share = network(*inputs, BOTH)
    assert text_share.shape == (3, 2) and (text_share == 0.5).all() and logits.shape == (3, 5)


@torch.no_grad()
def test_without_sequence_attention_the_clip_tokens_are_weighed(inputs):
    network = spread(tiny_network(tiny_config(sequence_attention=False)))
    text, image, _ = network.towers(*inputs)
    logits, text_share = network.modality_heads(text[:, 0], image[:, 0], BOTH)
    assert torch.equal(network(*inputs, BOTH).logits_BC, logits)
    assert torch.equal(network(*inputs, BOTH).text_share_BK, text_share)


def test_pre_norm_is_another_network(inputs):
    torch.manual_seed(0)
    with torch.no_grad():
        post = tiny_network().eval()(*inputs, BOTH).logits_BC
        pre = tiny_network(tiny_config(sequence_norm="pre")).eval()(*inputs, BOTH).logits_BC
    assert torch.isfinite(pre).all() and not torch.allclose(pre, post)


@torch.no_grad()
def test_gated_attention_starts_from_clips_own_features_and_leaves_them(inputs):
    network = tiny_network(tiny_config(sequence_norm="gated")).eval()
    text, image, mask = network.towers(*inputs)
    mask = torch.cat([mask, BOTH[:, 1:].expand(-1, image.shape[1])], dim=1)
    for mixed, own in zip(network.sequence_attention(text, image, mask), (text, image), strict=True):
        torch.testing.assert_close(mixed, own[:, 0], rtol=0, atol=0)
    for mixed, own in zip(spread(network).sequence_attention(text, image, mask), (text, image), strict=True):
        assert not torch.allclose(mixed, own[:, 0], atol=1e-2)


@torch.no_grad()
def test_heads_that_read_both_contain_the_sum_and_late_fusion(inputs):
    both = spread(tiny_network(tiny_config(head_inputs="both", sequence_attention=False))).double()
    text, image = (tokens[:, 0] for tokens in both.towers(*inputs)[:2])
    width, heads = text.shape[1], both.modality_heads
    energy = text @ heads.relevance[:, :width].T - image @ heads.relevance[:, width:].T
    for_text, for_image = heads.hidden_weight.split(width, dim=2)
    logits, share = both(*inputs, BOTH)
    torch.testing.assert_close(share, energy.sigmoid(), check_dtype=False)
    weighted = share.T[..., None] * text, (1 - share.T[..., None]) * image
    hidden = weighted[0] @ for_text.mT + weighted[1] @ for_image.mT + heads.hidden_bias[:, None]
    outputs = zip(torch.nn.functional.gelu(hidden), heads.output_weight.split([3, 2]), strict=True)
    expected = torch.cat([active @ weight.T for active, weight in outputs], dim=1) + heads.output_bias
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)

    summed = tiny_network(tiny_config(sequence_attention=False)).eval().double()
    weights = {name: tensor for name, tensor in both.state_dict().items() if name in summed.state_dict()}
    weights["modality_heads.relevance"] = heads.relevance[:, :width]
    weights["modality_heads.hidden_weight"] = for_text
    summed.load_state_dict(weights)
    heads.relevance[:, width:], heads.hidden_weight[:, :, width:] = heads.relevance[:, :width], for_text
    torch.testing.assert_close(both(*inputs, BOTH).logits_BC, summed(*inputs, BOTH).logits_BC, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_towers_equal_open_clips_own_embeddings(inputs):
    network = spread(tiny_network())
    input_ids, pixels = inputs
    clip, mean, std = network.towers.clip, network.towers.mean, network.towers.std
    padded = torch.nn.functional.pad(input_ids, (0, 77 - input_ids.shape[1])).long()
    text, image, _ = network.towers(input_ids, pixels)
    torch.testing.assert_close(text[:, 0], clip.encode_text(padded), rtol=1e-5, atol=1e-5)
    pooled, _ = clip.visual((pixels.permute(0, 3, 1, 2) - mean) / std)
    torch.testing.assert_close(image[:, 0], pooled)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": "no-such-model"}, "open_clip has no model 'no-such-model'"),
        ({"clip": "RN50"}, "RN50 is not a ViT"),
        ({"clip": "ViT-B-16-SigLIP"}, "not a ViT with CLIP's causal text tower"),
        ({"pretrained": "no-such-tag"}, "neither a file nor a weight tag of cma-clip-tiny"),
    ],
)
def test_unfit_towers_are_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        create_clip(ModelConfig(**{"clip": "cma-clip-tiny"} | settings))
    assert "\n" not in str(error.value)


def test_pretrained_weights_come_from_a_local_file_and_a_bad_file_is_named(tmp_path):
    clip = create_clip(tiny_config())
    file = tmp_path / "clip.pt"
    torch.save(clip.state_dict(), file)
    loaded = create_clip(tiny_config(pretrained=str(file)))
    for (name, ours), theirs in zip(clip.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"clip\.pt.* cannot be loaded"):
        create_clip(tiny_config(pretrained=str(file)))


def test_weights_that_cannot_be_downloaded_are_named_with_the_cure(monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("open_clip.factory.download_pretrained", offline)
    with pytest.raises(ValueError, match="'openai' of ViT-B-32-quickgelu cannot be loaded.*give a local file"):
        create_clip(ModelConfig(pretrained="openai"))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="sequence_heads: 5 does not divide the width 128"):
        tiny_network(tiny_config(sequence_heads=5))


def test_a_multi_label_task_sits_beside_a_single_label_one():
    tasks = [*TASKS, MultiLabel(name="tags", labels=["a", "b", "c", "d"])]
    cls = torch.zeros(2, 128)
    logits, text_share = tiny_network(tasks=tasks).modality_heads(cls, cls, BOTH[:2])
    assert logits.shape == (2, 3 + 2 + 4) and text_share.shape == (2, 3)
