"""A network as an ONNX graph: traced, quantized, and run without torch."""
