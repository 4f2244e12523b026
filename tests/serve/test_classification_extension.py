"""What no flag keeps out of old servers: deploy/README.md says so, and which version to take."""

from __future__ import annotations

import shutil
import signal
import subprocess

import numpy as np
import pytest
import tritonclient.grpc as triton
from server_faults import end_stubs, kill_server, stubs
from server_process import ROOT, ServerProcess, tritonserver
from tiny import TASKS, tiny_bundle_config
from tritonclient.utils import InferenceServerException
from waiting import wait_until

from serve.launch import server_version
from serve.profiles import Version


def tensor(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def test_a_server_before_2_60_ends_when_the_classes_of_a_string_are_asked_for(tmp_path):
    """It divides by the size of an element, which a string has not. Of `decode` alone, which needs no engine."""
    if Version.parse(server_version(tritonserver())) >= Version(2, 60):
        pytest.skip("cured by triton-inference-server/server#8267")
    shutil.copytree(ROOT / "deploy/decode", tmp_path / "deploy/decode")
    (tmp_path / "deploy/bundle.json").write_text(tiny_bundle_config().model_dump_json())
    server = ServerProcess(tmp_path / "deploy", tmp_path / "server.log")
    logits, text_share = np.arange(TASKS.num_columns, dtype=np.float32)[None], np.ones((1, 2), np.float32)
    present = np.array([[True, False]])
    inputs = [
        tensor("logits", logits, "FP32"),
        tensor("text_share", text_share, "FP32"),
        tensor("present", present, "BOOL"),
    ]
    with server.log_path.open("wb") as log, triton.InferenceServerClient(server.url) as raw:
        server.process = subprocess.Popen(server.command, stdout=log, stderr=subprocess.STDOUT)
        try:
            assert wait_until(lambda: is_ready(raw)), server.log_tail()
            left = stubs(server)
            classes = triton.InferRequestedOutput("PROBABILITIES", class_count=1)
            best = raw.infer("decode", inputs, outputs=[classes]).as_numpy("PROBABILITIES")
            assert best.tolist() == [[b"0.731059:4"]]
            assert server.process.poll() is None
            with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
                raw.infer("decode", inputs, outputs=[triton.InferRequestedOutput("PREDICTION", class_count=1)])
            assert server.process.wait(30) == -signal.SIGFPE
            end_stubs(left)
        finally:
            kill_server(server)


def is_ready(raw: triton.InferenceServerClient) -> bool:
    try:
        return raw.is_model_ready("decode")
    except InferenceServerException:
        return False
