"""Passes that change the dtype in which values are kept."""
