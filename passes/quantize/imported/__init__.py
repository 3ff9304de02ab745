"""Graphs that others quantized: Q/DQ pairs become values that stand on codes, and their codes are ours."""
