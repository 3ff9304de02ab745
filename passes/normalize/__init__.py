"""CAPTURED to NORMALIZED: one spelling for each meaning."""
