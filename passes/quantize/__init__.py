"""Quantization: what calibration sees of values, which ranges and codes follow."""
