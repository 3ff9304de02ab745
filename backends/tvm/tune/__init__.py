"""Choosing kernels by measuring them."""
