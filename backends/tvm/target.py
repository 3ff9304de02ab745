"""The machine that code is made for. Found through LLVM; knows vector width, registers and features."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A CPU: LLVM `triple` and `cpu`, the `features` it has, and how many `threads` plans are made for."""

    triple: str
    cpu: str
    features: frozenset[str]
    threads: int

    @property
    def lanes(self) -> int:
        """float32 lanes of one vector register: 16 (AVX-512), 8 (AVX2), 4 (NEON)."""
        return 16 if "avx512f" in self.features else 8 if "avx2" in self.features else 4

    @property
    def registers(self) -> int:
        """Architectural vector registers: 32 (AVX-512, NEON), 16 (AVX2)."""
        return 16 if self.lanes == 8 else 32

    @property
    def block(self) -> int:
        """Channel block of blocked layouts: at least 8, so that NEON uses two registers a block."""
        return max(8, self.lanes)
