"""Structural merges: sums, chains and stacks of linear operators become one."""
