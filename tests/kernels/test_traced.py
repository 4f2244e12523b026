"""The operator in an exported graph, traced outside the interpreter and in a process of its own for a GPU elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_an_exported_module_carries_the_operator_and_the_compiler_sees_what_the_kernel_writes():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "tests/support/traced_kernels.py"], cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["exported"] == ["cma_clip.modality_heads.default"] and found["batch"] == [[1, 64]]
    outputs = {"_forward_kernel": ["arrivals", "logits", "partial", "saved", "text_share"]}
    assert found["written"] == outputs
