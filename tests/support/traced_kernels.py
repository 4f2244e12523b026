"""Traces the fused operator for a CUDA device that need not exist, outside the interpreter, and prints what it found.

Run by test_traced.py in a process of its own. One JSON object: which operator an exported module
carries, for which batch sizes, and which arguments of which kernels are found to be written.
"""

from __future__ import annotations

import json

import torch
import triton
from torch._functorch.aot_autograd import aot_export_module
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget

from model.modality_heads import ModalityHeads
from model.tasks import SingleLabel

SIZES = (12, 17)


class NoDriver:
    """Tells the tracer what to trace for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


triton.runtime.driver.set_active(NoDriver())
tasks = [SingleLabel(name=f"task{n}", labels=[str(i) for i in range(n)]) for n in SIZES]
with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda:0"):
    heads = ModalityHeads(tasks, 512, 512, dropout=0.1, kernels="triton")
    inputs = (torch.empty(8, 512), torch.empty(8, 512), torch.ones(8, 2, dtype=torch.bool))

batch = torch.export.Dim("batch", min=1, max=64)
exported = torch.export.export(heads.eval(), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
with torch.no_grad():
    plain = torch.export.export(heads.eval(), inputs)
    forward, _ = aot_export_module(plain.module(), inputs, trace_joint=False)


def written(graph: torch.fx.GraphModule) -> dict[str, list[str]]:
    nodes = [node for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
    found = {}
    for node in nodes:
        kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
        kernel = getattr(kernel, "fn", kernel)  # one that is given warps and stages arrives wrapped
        found[kernel.__name__] = sorted(node.kwargs["tensors_to_clone"])
    return found


print(
    json.dumps(
        {
            "exported": [str(node.target) for node in exported.graph.nodes if "cma_clip" in str(node.target)],
            "batch": [[int(r.lower), int(r.upper)] for r in exported.range_constraints.values()],
            "written": written(forward),
        }
    )
)
