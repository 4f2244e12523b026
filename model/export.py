"""Bundle to ONNX to a Triton model repository, with a parity report against torch before anything is published."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from model.bundle import Bundle, load_bundle
from model.config import BundleConfig
from model.decode import probabilities, split_by_task
from model.files import new_directory, write_atomically

# B batch, T token ids, H and W image size, C labels of all tasks, K tasks

INPUTS = ("input_ids", "pixels", "present")
OUTPUTS = ("logits", "text_share")
OPSET = 20
BATCHES = (1, 2, 7)
LARGEST_PROBABILITY_DIFFERENCE = 1e-3
REPOSITORY = Path(__file__).parents[1] / "deploy"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory written by training")
    parser.add_argument(
        "--deploy", type=Path, default=Path("deploy"), help="model repository to fill (made if missing)"
    )
    parser.add_argument("--runtime", choices=["openvino", "tensorrt"], default="openvino")
    args = parser.parse_args(arguments)
    try:
        report = export(args.bundle, args.deploy, args.runtime)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"parity with torch over {report['cases']} batches, {report['products']} products:"
        f" largest probability difference {report['probability_difference']:.2e},"
        f" of λ {report['text_share_difference']:.2e}, label flips {report['label_flips']}"
    )
    server = shutil.which("tritonserver") or ".venv-serve/bin/tritonserver"
    print(f"{args.deploy} is ready; next: {server} --model-repository {args.deploy}/ --model-config-name=cpu")
    return 0


def export(bundle_dir: Path, deploy: Path, runtime: str = "openvino") -> dict[str, Any]:
    """Fill a model repository from a bundle.

    Args:
        bundle_dir: as written by training.
        deploy: the repository; made as a copy of the project's where it does not exist.
        runtime: `openvino` serves the ONNX file as it is.
    Returns:
        the parity report, which is also stored beside the engine.
    Raises:
        ValueError: the bundle is unfit, the graph is invalid, parity fails, or the runtime cannot be
            built here. What `deploy` served before stays then.
    """
    if runtime == "tensorrt":
        raise ValueError("--runtime tensorrt: TensorRT engines cannot be built yet; openvino serves on the CPU")
    bundle = load_bundle(bundle_dir)
    prepare_repository(deploy)
    version = deploy / "engine" / "1"
    served_config = bundle.config.model_dump_json(indent=2) + "\n"
    with new_directory(version) as partial:
        for step in version.glob("*.py"):
            shutil.copy2(step, partial)
        write_onnx(bundle, partial / "model.onnx")
        report = check_parity(bundle, partial / "model.onnx")
        # The engine refuses to load beside another bundle.json: a kill between the two renames shows.
        report["bundle_sha256"] = hashlib.sha256(served_config.encode()).hexdigest()
        (partial / "parity.json").write_text(json.dumps(report, indent=2) + "\n")
        if not report["passed"]:
            raise ValueError(
                f"{bundle_dir}: the ONNX graph differs from torch: {json.dumps(report)}; nothing published"
            )
    write_atomically(deploy / "tokenizer.json", (bundle_dir / "tokenizer.json").read_bytes())
    write_atomically(deploy / "bundle.json", served_config)
    return report


def prepare_repository(deploy: Path) -> None:
    """Make `deploy` a copy of the project's model repository unless it is one already.

    Raises:
        ValueError: `deploy` holds something else, or there is nothing to copy from.
    """
    if (deploy / "engine" / "config.pbtxt").is_file():
        return
    if deploy.exists() and any(deploy.iterdir()):
        raise ValueError(f"{deploy}: neither empty nor a model repository of this project")
    if not (REPOSITORY / "engine" / "config.pbtxt").is_file():
        raise ValueError(
            f"{deploy}: no such model repository; run this from a checkout of the project, or copy its deploy/"
        )
    generated = shutil.ignore_patterns(
        "bundle.json", "tokenizer.json", "model.onnx*", "parity.json", "__pycache__", ".*.partial"
    )
    shutil.copytree(REPOSITORY, deploy, ignore=generated, dirs_exist_ok=True)


def write_onnx(bundle: Bundle, path: Path) -> None:
    """Write the network with a dynamic batch and title length.

    Inputs: input_ids int32 [B, T], pixels uint8 [B, H, W, 3], present bool [B, 2].
    Outputs: logits float32 [B, C], text_share float32 [B, K].

    Raises:
        ValueError: onnx.checker refuses the graph.
    """
    example = tuple(torch.from_numpy(array) for array in random_inputs(bundle.config, 2, 16, seed=0))
    batch = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=2, max=bundle.config.preprocess.context_length)
    shapes = ({0: batch, 1: length}, {0: batch}, {0: batch})
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX counterpart
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                bundle.network,
                example,
                path,
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"onnx.checker refuses the exported graph: {error}") from error


def random_inputs(
    config: BundleConfig, batch: int, length: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids whose longest title has `length` ids, pixels, and every mix of present modalities."""
    rng = np.random.default_rng(seed)
    size, vocab = config.preprocess.image_size, config.preprocess.vocab_size
    input_ids = np.zeros((batch, length), dtype=np.int32)
    for row, ids in enumerate(input_ids):
        end = length - 1 if row == 0 else int(rng.integers(1, length))
        ids[0], ids[end] = vocab - 2, vocab - 1
        ids[1:end] = rng.integers(0, vocab - 2, end - 1)
    pixels = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    mixes = np.array([[True, True], [True, False], [False, True]])
    return input_ids, pixels, mixes[np.arange(batch) % 3 if batch > 1 else [seed % 3]]


def check_parity(bundle: Bundle, onnx_path: Path) -> dict[str, Any]:
    """Compare ONNX Runtime with torch over batch sizes, title lengths and missing modalities.

    Returns:
        passed; cases, products; probability_difference and text_share_difference (largest absolute
        ones); label_flips (products whose best label of a task differs).
    """
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    lengths = (2, 3, *bundle.config.preprocess.title_lengths)
    cases = [(batch, length) for batch in BATCHES for length in lengths]
    tasks = bundle.config.tasks
    difference = share_difference = 0.0
    flips = 0
    for seed, (batch, length) in enumerate(cases):
        inputs = random_inputs(bundle.config, batch, length, seed)
        with torch.inference_mode():
            expected, expected_share = (o.numpy() for o in bundle.network(*map(torch.from_numpy, inputs)))
        logits, share = session.run(list(OUTPUTS), dict(zip(INPUTS, inputs, strict=True)))
        expected, actual = probabilities(expected, tasks), probabilities(logits, tasks)
        difference = max(difference, float(np.abs(expected - actual).max()))
        share_difference = max(share_difference, float(np.abs(expected_share - share).max()))
        pairs = zip(split_by_task(expected, tasks), split_by_task(actual, tasks), strict=True)
        flips += sum(int((a.argmax(1) != b.argmax(1)).sum()) for (_, a), (_, b) in pairs)
    limit = LARGEST_PROBABILITY_DIFFERENCE
    return {
        "passed": bool(flips == 0 and difference <= limit and share_difference <= limit),
        "cases": len(cases),
        "products": sum(batch for batch, _ in cases),
        "probability_difference": difference,
        "text_share_difference": share_difference,
        "label_flips": flips,
    }


if __name__ == "__main__":
    sys.exit(main())
