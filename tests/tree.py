"""The repository as files: what git tracks or would track."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__"}


def files(suffix: str = "") -> list[Path]:
    """Every file that is not ignored, in order; without git, every file outside build folders."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [p for p in ROOT.rglob("*") if not _ignored(p.relative_to(ROOT))]
    return sorted(p for p in found if p.is_file() and p.name.endswith(suffix))


def _ignored(path: Path) -> bool:
    """Whether a path lies in a folder that holds nothing of ours."""
    return any(part in _NOT_OURS or part.endswith((".egg-info", "_cache")) for part in path.parts)
