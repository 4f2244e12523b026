"""The architectures: what each reads and ignores, what its stages train, and how another one is added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from tiny import TASKS, tiny_bundle_config, tiny_config, tiny_network

from model.bundle import load_bundle, save_bundle
from model.networks import NETWORKS, Architecture
from serve.engines import INPUTS
from serve.export.graph import write_onnx
from train.losses import classification_losses
from train.recipe import Recipe
from train.stage_state import start_of
from train.stages import freeze, train_mode

RIVALS = [name for name in NETWORKS if name != "cma_clip"]
TEXT, IMAGE = 0, 1


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three products; titles of 3, 7 and 16 ids, start and end included."""
    generator = torch.Generator().manual_seed(3)
    input_ids = torch.randint(1, 8000, (3, 16), generator=generator, dtype=torch.int32)
    for row, length in enumerate((3, 7, 16)):
        input_ids[row, length - 1 :] = 0
        input_ids[row, 0], input_ids[row, length - 1] = 8190, 8191
    pixels = torch.randint(0, 256, (3, 64, 64, 3), generator=generator, dtype=torch.uint8)
    return input_ids, pixels, torch.ones(3, 2, dtype=torch.bool)


def network_of(name: str):
    return tiny_network(tiny_config(architecture=name)).eval()


def changed(inputs, modality: int):
    """The same products with other titles or other pictures."""
    other = list(inputs)
    other[modality] = inputs[modality].roll(1, dims=0)
    return other


@pytest.mark.parametrize(
    ("name", "reads"), [("image_only", {IMAGE}), ("text_only", {TEXT}), *((n, {TEXT, IMAGE}) for n in RIVALS[2:])]
)
@torch.no_grad()
def test_a_network_reads_its_modalities_and_no_other(inputs, name: str, reads: set[int]):
    network = network_of(name)
    before = network(*inputs).logits_BC
    for modality in (TEXT, IMAGE):
        after = network(*changed(inputs, modality)).logits_BC
        assert torch.equal(before, after) == (modality not in reads)


@pytest.mark.parametrize("name", RIVALS)
@torch.no_grad()
def test_the_text_share_says_what_is_read(inputs, name: str):
    share = network_of(name)(*inputs).text_share_BK
    assert torch.equal(share, torch.full((3, 2), {"image_only": 0.0, "text_only": 1.0}.get(name, 0.5)))


@pytest.mark.parametrize("name", RIVALS)
@torch.no_grad()
def test_padding_behind_the_title_changes_nothing(inputs, name: str):
    network, (input_ids, pixels, present) = network_of(name), inputs
    longer = network(F.pad(input_ids, (0, 16)), pixels, present).logits_BC
    torch.testing.assert_close(network(*inputs).logits_BC, longer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["late_fusion", "clip_linear_probe", "mmbt"])
@torch.no_grad()
def test_what_an_absent_modality_holds_does_not_matter(inputs, name: str):
    network = network_of(name)
    for modality in (TEXT, IMAGE):
        present = inputs[2].clone()
        present[:, modality] = False
        here, there = ([*some[:2], present] for some in (inputs, changed(inputs, modality)))
        assert torch.equal(network(*here).logits_BC, network(*there).logits_BC)
        assert not torch.equal(network(*here).logits_BC, network(*inputs).logits_BC)


@torch.no_grad()
def test_late_fusion_and_linear_probe_by_formula(inputs):
    input_ids, pixels, _ = inputs
    probe, fusion = network_of("clip_linear_probe"), network_of("late_fusion")
    for network in (probe, fusion):
        text, image, _ = network.towers(input_ids, pixels)
        both = torch.cat([text[:, 0], image[:, 0]], dim=1)
        heads = network.modality_heads
        if network is probe:
            expected = both @ heads.weight.T + heads.bias
        else:
            hidden = [F.gelu(both @ heads.hidden_weight[k].T + heads.hidden_bias[k]) for k in range(2)]
            rows = heads.output_weight.split([3, 2])
            expected = torch.cat([h @ w.T for h, w in zip(hidden, rows, strict=True)], 1) + heads.output_bias
        torch.testing.assert_close(network(*inputs).logits_BC, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_trainable_weight_of_every_stage_is_reached(inputs, name: str):
    """A weight without a gradient would decay, or stop a rank that waits for it."""
    network = tiny_network(tiny_config(architecture=name))
    targets = torch.zeros(3, 5)
    targets[:, [0, 3]] = 1
    for stage in NETWORKS[name].stages:
        freeze(network, stage, NETWORKS[name])
        network.zero_grad(set_to_none=True)
        classification_losses(network(*inputs).logits_BC, targets, TASKS)[0].sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, (stage, parameter_name)


def test_a_linear_probe_has_no_stage_after_warmup(tmp_path: Path):
    network = tiny_network(tiny_config(architecture="clip_linear_probe"))
    freeze(network, "warmup", NETWORKS["clip_linear_probe"])
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained == ["modality_heads.weight", "modality_heads.bias"]
    assert NETWORKS["clip_linear_probe"].neighbours("warmup") == ("contrastive", None)
    recipe = Recipe(model=tiny_config(architecture="clip_linear_probe"))
    with pytest.raises(ValueError, match="stage end_to_end: the stages of CLIP linear probe are warmup"):
        start_of("end_to_end", tmp_path, recipe, TASKS)


HEADS = {f"modality_heads.{name}" for name in ("hidden_weight", "hidden_bias", "output_weight", "output_bias")}
PLACES = {f"sequence_attention.{name}" for name in ("text_position", "image_position", "modality_type")}
# Beside towers.clip. and sequence_attention's norms and blocks.
OWN_NAMES = {
    "cma_clip": HEADS | PLACES | {"modality_heads.relevance"},
    "image_only": HEADS,
    "text_only": HEADS | PLACES,
    "late_fusion": HEADS,
    "clip_linear_probe": {"modality_heads.weight", "modality_heads.bias"},
    "mmbt": HEADS | PLACES | {"sequence_attention.words.weight", "sequence_attention.words.bias"},
}
SHARED_NAMES = ("towers.clip.", "sequence_attention.blocks.", "sequence_attention.embedding_norm.")


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_keep_the_names_under_which_bundles_hold_them(name: str):
    own = {key for key in network_of(name).state_dict() if not key.startswith(SHARED_NAMES)}
    assert own == OWN_NAMES[name]


def test_an_unknown_architecture_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'clip' is none of cma_clip, image_only, text_only, late_fusion"):
        tiny_config(architecture="clip")


GATED = """
import torch
from torch import nn

from model.cma_clip import Network, Output


class Gated(Network):
    def __init__(self, towers, heads, gate):
        super().__init__(towers, heads)
        self.gate = gate

    def forward(self, input_ids_BT, pixels_BHWC, present_B2):
        text_BTD, image_BPD, _ = self.towers(input_ids_BT, pixels_BHWC)
        mixed_BD = self.gate(torch.cat([text_BTD[:, 0], image_BPD[:, 0]], dim=1))
        return Output(*self.modality_heads(mixed_BD, mixed_BD, present_B2))


def gated(parts):
    width = parts.sizes[0]
    return Gated(parts.towers, parts.heads(), nn.Linear(2 * width, width))
"""


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Architecture]:
    """Adds an architecture as docs/extending.md says: a file, and a row with what is given beside it."""
    (tmp_path / "gated_network.py").write_text(GATED)
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(**row: Any) -> Architecture:
        monkeypatch.setitem(NETWORKS, "gated", Architecture("gated_network:gated", "gated", **row))
        return NETWORKS["gated"]

    return add


def test_a_module_that_no_stage_trains_is_refused_by_name(gated: Callable[..., Architecture]):
    row = gated()
    network = tiny_network(tiny_config(architecture="gated"))
    for stage in ("contrastive", "warmup", "end_to_end", "tuning"):
        with pytest.raises(ValueError, match=r"^gate\.weight would be trained in no stage of gated"):
            freeze(network, stage, row)


@torch.no_grad()
def test_an_architecture_is_a_file_and_a_row(gated: Callable[..., Architecture], inputs, tmp_path: Path):
    row = gated(stages=("warmup", "tuning"), trained_as={"gate": "sequence_attention"})
    config = tiny_config(architecture="gated")
    network = tiny_network(config).eval()
    for stage, trains in (("contrastive", False), ("warmup", True), ("tuning", False)):
        freeze(network, stage, row)
        train_mode(network, stage, row)
        assert network.gate.weight.requires_grad == network.gate.training == trains
    save_bundle(tmp_path / "bundle", tiny_bundle_config(config), network.eval())
    loaded = load_bundle(tmp_path / "bundle").network
    torch.testing.assert_close(loaded(*inputs).logits_BC, network(*inputs).logits_BC, rtol=1e-4, atol=1e-5)


def test_what_a_row_declares_unused_is_never_trained(gated: Callable[..., Architecture]):
    row = gated(unused=("gate.",))
    network = tiny_network(tiny_config(architecture="gated"))
    freeze(network, "end_to_end", row)
    assert not network.gate.weight.requires_grad and network.modality_heads.hidden_weight.requires_grad


@pytest.mark.parametrize("name", RIVALS)
@torch.no_grad()
def test_a_bundle_remembers_its_architecture(inputs, name: str, tmp_path: Path):
    network = network_of(name)
    save_bundle(tmp_path / "bundle", tiny_bundle_config(tiny_config(architecture=name)), network)
    loaded = load_bundle(tmp_path / "bundle").network
    assert type(loaded) is type(network)
    assert torch.equal(loaded(*inputs).logits_BC, network(*inputs).logits_BC)


@pytest.mark.parametrize(
    "settings",
    [
        {"architecture": "clip_linear_probe"},
        {"architecture": "mmbt"},
        {"sequence_norm": "gated", "head_inputs": "both"},
    ],
)
@torch.no_grad()
def test_every_form_can_be_exported_for_any_batch(inputs, settings: dict[str, object], tmp_path: Path):
    config = tiny_bundle_config(tiny_config(**settings))
    network = tiny_network(config.model).eval()
    for parameter in network.parameters():  # gates that are open, among others
        parameter += 0.02
    save_bundle(tmp_path / "bundle", config, network)
    bundle = load_bundle(tmp_path / "bundle")
    write_onnx(bundle, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    given = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
    for actual, expected in zip(session.run(None, given), bundle.network(*inputs), strict=True):
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-5)
