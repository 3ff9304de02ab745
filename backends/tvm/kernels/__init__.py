"""Kernel templates, one family a file."""
