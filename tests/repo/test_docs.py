"""The documents are true: options, files they name, and the README's examples."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields

import pytest
from tree import ROOT

from planish import cli, cli_export
from planish.options import Options

PAGES = ["README.md", "docs/architecture.md", "docs/cli.md", "docs/quantization.md"]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_every_option_is_documented() -> None:
    text = read("docs/cli.md")
    assert not [field.name for field in fields(Options) if f"`{field.name}`" not in text]


def test_every_command_and_its_options_are_documented() -> None:
    text = read("docs/cli.md")
    for command in (cli.compile, cli_export.export, cli.run, cli.bench, cli.inspect, cli.doctor):
        assert f"## planish {command.__name__}" in text
        for name, parameter in inspect.signature(command).parameters.items():
            if "Option" in str(parameter.annotation) or parameter.annotation in ("Threads", "Json"):
                option = {"as_json": "json", "eval_mode": "eval"}.get(name, name)
                assert f"`--{option}" in text, f"{command.__name__} --{option}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    named = re.findall(r"`([\w./]+(?:\.py|\.md|\.txt|\.toml|/))`", read(page))
    roots = (ROOT, ROOT / "backends" / "tvm")
    assert not [name for name in named if not any((root / name).exists() for root in roots)]


def test_the_readme_parses_and_names_its_two_commands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)
    assert "make demo" in read("README.md")
    assert "make test" in read("README.md")
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
