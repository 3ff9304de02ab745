"""Writes integer programs as ONNX models that other engines run."""
