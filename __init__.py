"""planish: a compiler plug-in for PyTorch. Imports nothing heavy; torch and TVM load on first use."""

from __future__ import annotations

__version__ = "0.1.0"
