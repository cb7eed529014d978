"""ONNX graphs from JAX programs."""
