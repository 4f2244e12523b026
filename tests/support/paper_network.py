"""CMA-CLIP a second time, in NumPy float64, one product at a time, straight from the paper's formulas.

It shares nothing with the package but the names of the weights. `weights` is a state dict of float64
arrays of the tiny network (GELU towers, patches of 8 pixels).
"""

from __future__ import annotations

import math

import numpy as np

Weights = dict[str, np.ndarray]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def forward(weights: Weights, ids: list[int], pixels: np.ndarray, *, layers: int, heads: int, labels: list[int]):
    """Logits of every task and λ of every task, for a product with both title and picture."""
    text = text_tower(weights, ids)
    image = image_tower(weights, pixels)
    words, patches = len(text), len(image)
    x = np.concatenate(
        [
            text + weights["sequence_attention.text_position"][:words] + weights["sequence_attention.modality_type"][0],
            image + weights["sequence_attention.image_position"] + weights["sequence_attention.modality_type"][1],
        ]
    )
    x = layer_norm(x, weights, "sequence_attention.embedding_norm")
    for i in range(layers):
        name = f"sequence_attention.blocks.{i}"
        qkv = linear(x, weights[f"{name}.qkv.weight"], weights[f"{name}.qkv.bias"])
        mixed = attention(qkv, heads, causal=False)
        x = x + linear(mixed, weights[f"{name}.out.weight"], weights[f"{name}.out.bias"])
        x = layer_norm(x, weights, f"{name}.attention_norm")
        hidden = gelu(linear(x, weights[f"{name}.mlp.0.weight"], weights[f"{name}.mlp.0.bias"]))
        x = layer_norm(
            x + linear(hidden, weights[f"{name}.mlp.2.weight"], weights[f"{name}.mlp.2.bias"]),
            weights,
            f"{name}.mlp_norm",
        )
    assert len(x) == words + patches
    t_cls, i_cls = x[0], x[words]
    logits, shares, first = [], [], 0
    for k, classes in enumerate(labels):
        w = weights["modality_heads.relevance"][k]
        e_t, e_i = math.exp(w @ t_cls), math.exp(w @ i_cls)
        share = e_t / (e_t + e_i)
        fused = share * t_cls + (1 - share) * i_cls
        hidden_weight, hidden_bias, output_weight, output_bias = (
            weights[f"modality_heads.{layer}"]
            for layer in ("hidden_weight", "hidden_bias", "output_weight", "output_bias")
        )
        own = slice(first, first + classes)
        hidden = gelu(linear(fused, hidden_weight[k], hidden_bias[k]))
        logits.append(linear(hidden, output_weight[own], output_bias[own]))
        shares.append(share)
        first += classes
    return np.concatenate(logits), np.array(shares)


def text_tower(weights: Weights, ids: list[int]) -> np.ndarray:
    """{T_CLS, T_1, ..., T_n}: T_CLS is the token at the end of the text, which leaves its place."""
    clip = "towers.clip"
    x = weights[f"{clip}.token_embedding.weight"][ids] + weights[f"{clip}.positional_embedding"][: len(ids)]
    x = tower_blocks(x, weights, f"{clip}.transformer", causal=True)
    x = layer_norm(x, weights, f"{clip}.ln_final") @ weights[f"{clip}.text_projection"]
    return np.concatenate([x[-1:], x[:-1]])


def image_tower(weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """{I_CLS, I_1, ..., I_m}."""
    visual = "towers.clip.visual"
    kernel = weights[f"{visual}.conv1.weight"]
    side = kernel.shape[-1]
    normal = (pixels / 255.0 - MEAN) / STD
    rows = [
        [
            [(kernel[c] * normal[y : y + side, x : x + side].transpose(2, 0, 1)).sum() for c in range(len(kernel))]
            for x in range(0, normal.shape[1], side)
        ]
        for y in range(0, normal.shape[0], side)
    ]
    patches = np.array(rows).reshape(-1, len(kernel))
    x = (
        np.concatenate([weights[f"{visual}.class_embedding"][None], patches])
        + weights[f"{visual}.positional_embedding"]
    )
    x = tower_blocks(layer_norm(x, weights, f"{visual}.ln_pre"), weights, f"{visual}.transformer", causal=False)
    return layer_norm(x, weights, f"{visual}.ln_post") @ weights[f"{visual}.proj"]


def tower_blocks(x: np.ndarray, weights: Weights, name: str, causal: bool) -> np.ndarray:
    layers = 1 + max(
        int(key.split(".resblocks.")[1].split(".")[0]) for key in weights if key.startswith(f"{name}.resblocks")
    )
    for i in range(layers):
        block = f"{name}.resblocks.{i}"
        normed = layer_norm(x, weights, f"{block}.ln_1")
        qkv = linear(normed, weights[f"{block}.attn.in_proj_weight"], weights[f"{block}.attn.in_proj_bias"])
        mixed = attention(qkv, 4, causal)
        x = x + linear(mixed, weights[f"{block}.attn.out_proj.weight"], weights[f"{block}.attn.out_proj.bias"])
        normed = layer_norm(x, weights, f"{block}.ln_2")
        hidden = gelu(linear(normed, weights[f"{block}.mlp.c_fc.weight"], weights[f"{block}.mlp.c_fc.bias"]))
        x = x + linear(hidden, weights[f"{block}.mlp.c_proj.weight"], weights[f"{block}.mlp.c_proj.bias"])
    return x


def attention(qkv: np.ndarray, heads: int, causal: bool) -> np.ndarray:
    q, k, v = np.split(qkv, 3, axis=1)
    size = q.shape[1] // heads
    mixed = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        if causal:
            scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
    return np.concatenate(mixed, axis=1)


def layer_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x @ weight.T + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
