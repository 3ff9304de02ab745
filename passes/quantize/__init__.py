"""Quantization: what calibration sees of a value, and which range of codes follows."""
