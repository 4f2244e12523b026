"""Matrix products in 8 bits, calibrated on products of a data set: faster where the CPU has VNNI, and less exact."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from model.bundle import Bundle
from serve.engines import INPUTS
from serve.export.graph import write_onnx
from serve.export.mixed_precision import FLOAT32_PARTS, PRODUCTS, module_scopes
from serve.export.parity import Inputs, product_cases

CALIBRATED_ON = 128


def write_int8(bundle: Bundle, path: Path, data: Path | None) -> None:
    """Write an ONNX file whose matrix products outside the heads take 8-bit inputs (QDQ format).

    Weights are scaled per output channel, activations per tensor by the extremes seen on products of the
    training split.

    Args:
        data: a data set directory.
    Raises:
        ValueError: there is none, or it has no readable training split.
    """
    if data is None:
        raise ValueError("--precision int8 needs --data: a data set to calibrate on and to measure the drift on")
    exact = path.with_name("exact.onnx")
    write_onnx(bundle, exact)
    graph = ir.load(exact).graph
    products = [node for node in graph if node.op_type in PRODUCTS]
    heads = [node.name for node in products if not FLOAT32_PARTS.isdisjoint(module_scopes(node))]
    logging.disable(logging.WARNING)  # it advises a pre-processing that torch's exporter has already done
    try:
        quantize_static(
            str(exact),
            str(path),
            _Reader(product_cases(bundle, data, "train", CALIBRATED_ON)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(PRODUCTS),
            nodes_to_exclude=heads,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": True},
        )
    finally:
        logging.disable(logging.NOTSET)
        exact.unlink()


class _Reader(CalibrationDataReader):
    def __init__(self, cases: Iterator[Inputs]) -> None:
        self.cases = cases

    def get_next(self) -> dict | None:
        case = next(self.cases, None)
        return None if case is None else dict(zip(INPUTS, case, strict=True))
