"""Traces the full-size network for a CUDA device that need not exist, and prints what its graph holds.

Run by test_torch_package.py in a process of its own, outside the interpreter. One JSON object: how often each
operator of interest occurs, the dtypes of their inputs, the grid of each kernel of ours, the dynamic ranges, and the
outputs' dtypes.
"""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

import torch
import triton
from torch import nn
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget

from model.bundle import Bundle
from model.clip_towers import create_clip, preprocess_config
from model.config import BundleConfig, ModelConfig
from model.networks import create_network
from model.tasks import SingleLabel, TaskSet
from serve.export.torch_package import ServedNetwork, export_program

OPERATORS = ("aten.linear", "aten.layer_norm", "aten.scaled_dot_product_attention", "cma_clip.modality_heads")


class NoDriver:
    """Tells the tracer what to trace for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def on_fake_gpu(network: nn.Module) -> None:
    """Every weight and buffer without its values, on a device that is not there."""
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(weight, device="cuda:0")))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device="cuda:0"))


triton.runtime.driver.set_active(NoDriver())
config = ModelConfig(kernels="triton")
tasks = TaskSet(SingleLabel(name=f"task{n}", labels=[str(i) for i in range(n)]) for n in (12, 17))
clip = create_clip(config)
preprocess = preprocess_config(clip)
network = create_network(config, preprocess, tasks, clip)
bundle = SimpleNamespace(config=BundleConfig(model=config, preprocess=preprocess, tasks=tasks))
# Autocast switches itself off where there is no GPU.
patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False).start()
patch("torch.cuda.is_bf16_supported", return_value=True).start()
with FakeTensorMode(allow_non_fake_inputs=True):
    on_fake_gpu(network)
    program = export_program(ServedNetwork(network, "bf16"), cast(Bundle, bundle), "cuda:0")
program = program.run_decompositions({})


def inputs_of(operator: str) -> list[tuple[str, ...]]:
    """The dtypes of the tensors that go into each node of this operator, each combination once."""
    nodes = [node for node in program.graph.nodes if operator in str(node.target)]
    values = [[arg.meta["val"].dtype for arg in node.args if isinstance(arg, torch.fx.Node)] for node in nodes]
    return sorted({tuple(str(dtype).removeprefix("torch.") for dtype in dtypes) for dtypes in values})


opened = program.run_decompositions({}, decompose_custom_triton_ops=True)
launches = [node for node in opened.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
operators = Counter(str(node.target).removesuffix(".default") for node in program.graph.nodes)
rounded = [node.args[0].name for node in program.graph.nodes if "_to_copy" in str(node.target)]
results = {output.arg.name for output in program.graph_signature.output_specs}
print(
    json.dumps(
        {
            "operators": {name: operators[name] for name in OPERATORS},
            "inputs": {name: inputs_of(name) for name in OPERATORS[:4]},
            "weights_rounded_in_each_call": [name for name in rounded if name.startswith("p_")],
            "grids": [[str(size) for size in node.kwargs["grid"][0]] for node in launches],
            "ranges": [[int(r.lower), int(r.upper)] for r in program.range_constraints.values()],
            "outputs": [
                [str(n.meta["val"].dtype), n.meta["val"].shape[1]] for n in program.graph.nodes if n.name in results
            ],
        }
    )
)
