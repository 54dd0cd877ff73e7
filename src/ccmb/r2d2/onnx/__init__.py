"""The network as ONNX graphs."""
