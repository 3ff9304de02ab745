"""Preprocessing that is compiled with the model."""
