"""NORMALIZED to OPTIMIZED: constants, and affines into the weights beside them."""
