"""Rewrites of programs, one a file; `pipelines` decides their order."""
