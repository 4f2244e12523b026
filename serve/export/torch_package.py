"""The network as an AOTInductor package: compiled ahead of time, with the fused kernels in it on a GPU."""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch._inductor
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor.exc import InductorError
from torch.export import ExportedProgram

from model.bundle import Bundle
from model.cma_clip import Network
from model.modality_heads import ModalityHeads
from model.sequence_attention import Block
from serve.engines.torch import LARGEST_BATCH, TorchEngine, versions
from serve.export.built import Built, Candidate, Order, Target
from serve.export.graph import dynamic_shapes, tracing
from serve.export.parity import random_inputs

# B batch, T token ids, H and W image size, N heads, E width of a head, V width of a tower

PRECISIONS = {"cuda": "bf16", "cpu": "f32"}
TYPICAL_BATCH = 32
OLD_TORCH = torch.torch_version.TorchVersion(torch.__version__) < "2.14"
# Threads are those of the machine that serves, not of the one that compiles.
OPTIONS = {"cpp.dynamic_threads": True}


class PackedAttention(nn.Module):
    """The self-attention of CLIP's towers with the batch first throughout.

    nn.MultiheadAttention, whose weights these are, turns batch and length around, and what torch.export sees of
    that rules out a batch of one.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        assert attention.in_proj_weight is not None, "query, key and value are projected together"
        self.heads, self.out = attention.num_heads, attention.out_proj
        self.in_weight, self.in_bias = attention.in_proj_weight, attention.in_proj_bias

    def forward(self, x_BTV: Tensor, *_: Tensor, attn_mask: Tensor | None, **__: Any) -> tuple[Tensor, None]:
        """Called as nn.MultiheadAttention is; the only mask in CLIP is the causal one."""
        batch, length, width = x_BTV.shape
        qkv = F.linear(x_BTV, self.in_weight, self.in_bias).view(batch, length, 3, self.heads, width // self.heads)
        q_BNTE, k_BNTE, v_BNTE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BNTE = F.scaled_dot_product_attention(q_BNTE, k_BNTE, v_BNTE, is_causal=attn_mask is not None)
        return self.out(mixed_BNTE.transpose(1, 2).reshape(batch, length, width)), None


class HeadsAsBatch(Block):
    """A block of sequence attention whose heads lie in the batch.

    In torch before 2.14 (tried: 2.11), attention under a mask rules out a batch of one; of heads there are several.
    """

    def attend(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        batch, length, width = x_BSD.shape
        qkv = self.qkv(x_BSD).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).unsqueeze(2).unbind(0)  # each [B * N, 1, S, E]
        mask = mask_BS[:, None].expand(batch, self.heads, length).flatten(0, 1)[:, None, None]
        mixed_BNSE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).view(batch, self.heads, length, -1)
        return self.out(mixed_BNSE.transpose(1, 2).reshape(batch, length, width))


class ServedNetwork(nn.Module):
    """The network as it is packaged.

    Args:
        network: is changed: its attention becomes PackedAttention, and for `bf16` the weights of its matrix
            products are rounded here, once, as autocast would do in every call.
        precision: of the matrix products; `bf16` is autocast as in training.
    """

    def __init__(self, network: Network, precision: str) -> None:
        super().__init__()
        self.network, self.precision = network.eval().requires_grad_(False), precision
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.MultiheadAttention):
                    setattr(parent, name, PackedAttention(child))
                elif isinstance(child, Block) and child.heads > 1 and OLD_TORCH:
                    child.__class__ = HeadsAsBatch
        network.towers.clip.visual.register_forward_hook(_with_patches_side_by_side)
        if precision == "bf16":
            _round_matrices(network)

    def forward(self, input_ids_BT: Tensor, pixels_BHW3: Tensor, present_B2: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [B, C] and λ [B, K], both float32."""
        device = pixels_BHW3.device.type
        with torch.autocast(device, torch.bfloat16) if self.precision == "bf16" else nullcontext():
            logits_BC, text_share_BK = self.network(input_ids_BT, pixels_BHW3, present_B2)
        return logits_BC.float(), text_share_BK


def _with_patches_side_by_side(visual: nn.Module, inputs: tuple[Tensor], outputs: tuple[Tensor, Tensor]) -> Any:
    """The patches without the gaps where the class token stood: a product of such rows rules out a batch of one too."""
    pooled_BD, patches_BPV = outputs
    return pooled_BD, patches_BPV.clone(memory_format=torch.contiguous_format)


def _round_matrices(network: Network) -> None:
    clip = network.towers.clip
    factors = [(clip, "text_projection"), (clip.visual, "proj")]
    for path, module in network.named_modules():
        if path.startswith("wide."):  # float32, also in training
            continue
        if isinstance(module, nn.Linear | nn.Conv2d | PackedAttention):
            factors += [(module, name) for name, _ in module.named_parameters(recurse=False)]
        elif isinstance(module, ModalityHeads):
            factors += [(module, "hidden_weight"), (module, "output_weight")]
    for module, name in factors:
        setattr(module, name, nn.Parameter(getattr(module, name).to(torch.bfloat16), requires_grad=False))


def build(order: Order) -> Built:
    """A package for this machine's GPU, or for its CPU where it has none.

    Raises:
        ValueError: as `build_package`.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = PRECISIONS[device] if order.precision == "auto" else order.precision
    libraries = build_package(order.bundle, order.path, device, precision)
    engine = TorchEngine(order.path, {})
    gpu = (torch.cuda.get_device_name(), engine.machine()[1]) if device == "cuda" else ()
    return Built(precision, [Candidate(f"torch {precision}", precision, engine)], Target(libraries, *gpu))


def build_package(bundle: Bundle, path: Path, device: str, precision: str) -> dict[str, str]:
    """Compile the network for this machine and write it as one .pt2 file.

    Inputs: input_ids int32 [B, T], pixels uint8 [B, H, W, 3], present bool [B, 2]; B up to LARGEST_BATCH, T from 2
    to the context length. Outputs: logits float32 [B, C], text_share float32 [B, K].

    Args:
        bundle: stays as it is.
        path: ends in .pt2.
        device: `cuda` (the GPU that will serve, or one of its kind) or `cpu`.
        precision: `f32` or `bf16`.
    Returns:
        library -> version that must be the same where the package is loaded.
    Raises:
        ValueError: no such device here, an unknown precision, or torch cannot compile (no C++ compiler).
    """
    if precision not in PRECISIONS.values():
        raise ValueError(f"precision {precision!r} of the torch runtime: expected f32 or bf16")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{path}: a package for a GPU is compiled on such a GPU, and torch finds none here")
    network = copy.deepcopy(bundle.network)
    # The bundle may have been trained with one or the other; the weights are the same.
    for module in network.modules():
        if isinstance(module, ModalityHeads):
            module.kernels = "auto" if device == "cuda" else "reference"
    served = ServedNetwork(network.to(device), precision)
    if device == "cuda":  # what `kernels: auto` measures here, it takes where it may not measure: in the graph
        with torch.no_grad():
            served(*example_inputs(bundle, device))
    program = export_program(served, bundle, device)
    try:
        options = OPTIONS | {"aot_inductor.metadata": {"precision": precision}}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except InductorError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: torch cannot compile the network, which needs g++ (or CXX): {reason}") from error
    return versions(device)


def example_inputs(bundle: Bundle, device: str) -> tuple[Tensor, ...]:
    """A typical batch of titles of middle length."""
    lengths = bundle.config.preprocess.title_lengths
    inputs = random_inputs(bundle.config, TYPICAL_BATCH, lengths[len(lengths) // 2], seed=0)
    return tuple(torch.from_numpy(array).to(device) for array in inputs)


def export_program(network: ServedNetwork, bundle: Bundle, device: str) -> ExportedProgram:
    """The graph that is compiled. `network` and its device may be fake."""
    example = example_inputs(bundle, device)
    # Sizes of 1 and the full context length must not become special cases, which torch.export would then refuse.
    general = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with tracing(), torch.no_grad(), general, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, example, dynamic_shapes=dynamic_shapes(bundle, LARGEST_BATCH))
