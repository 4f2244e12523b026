"""Bundle to ONNX, to an engine, to a Triton model repository."""
