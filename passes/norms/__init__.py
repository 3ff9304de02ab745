"""Norms of a residual stream: carried to where they vanish, or made cheaper."""
