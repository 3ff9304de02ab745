"""OPTIMIZED to GROUPED: one region for each kernel."""
