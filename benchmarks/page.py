"""Results into a page: each benchmark replaces the block between its own two marks.

<!-- latency float32 -->  title, table, how it was made  <!-- end of latency float32 -->
"""

from __future__ import annotations

import re
from pathlib import Path


def replace(text: str, name: str, block: str) -> str:
    """The page with the block of that name replaced; one that has no such marks gets them at its end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    marked = f"{begin}\n{block.strip()}\n{end}"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if found.search(text):
        return found.sub(lambda _: marked, text, count=1)
    return f"{text.rstrip()}\n\n{marked}\n" if text.strip() else f"{marked}\n"


def write(page: Path, name: str, block: str) -> None:
    """Replace the block in a file, which is made if there is none."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    page.write_text(replace(text, name, block), encoding="utf-8")
