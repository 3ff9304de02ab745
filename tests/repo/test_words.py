"""The repository speaks of planish alone: no machine's paths, no package host, no second copies of classes."""

from __future__ import annotations

import re

import pytest
from tree import files

# Each is written so that this file does not match itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~-])/(?:ho[m]e(?!/me/)|ro[o]t|Us[e]rs|wor[k]|t[m]p)/\w"),
    "a package registry": re.compile(r"py[p]i\.org|pythonhost[e]d|files\.python|conda\.anacon[d]a"),
    "an index option": re.compile(r"-{2}(?:extra-)?index-ur[l]|find-link[s]"),
    "a conflict mark": re.compile(r"^(?:<{7}|>{7}|\|{7}) ", re.MULTILINE),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights
        found += [f"{path}: {hit.group()!r}" for hit in FORBIDDEN[what].finditer(text)]
    assert not found


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "open('/" + "tmp/x')"),
        ("a path of one machine", "cd /" + "home/jane/x"),
        ("a package registry", "https://" + "pypi" + ".org/simple"),
        ("an index option", "pip install -" + "-index-url x"),
        ("a conflict mark", "<" * 7 + " HEAD"),
    ],
)
def test_the_search_finds_it(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)
