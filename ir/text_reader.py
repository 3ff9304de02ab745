"""Reads what the text form (see `text`) is made of: types, literals, values of constants, nested structures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch

from .fake import Fakes
from .structure import Structure
from .text_tokens import Cursor, Token
from .text_values import DTYPES, WORDS, make_tensor, read_tensor, show_type


class Reader(Cursor):
    """A cursor that reads more than tokens, none of it with a place in a graph."""

    def __init__(self, text: str) -> None:
        """Start at the first token."""
        super().__init__(text)
        self.fakes = Fakes()

    # structures

    def tree(self, leaf: Callable[[], None]) -> Structure:
        """Nested tuples, lists, dicts, named tuples and constants over leaves."""
        if self.token.kind in ("value", "weight"):
            leaf()
            return Structure("leaf")
        if self.at("(") or self.at("["):
            return self.sequence(leaf)
        if self.at("{"):
            return self.mapping(leaf)
        if self.token.kind == "word" and self.peek().text == "(":
            name = self.take().text
            fields = self.fields(leaf)
            return Structure("namedtuple", tuple(fields.values()), (name, *fields))
        return Structure.constant(self.literal())

    def sequence(self, leaf: Callable[[], None]) -> Structure:
        """`(a, b)`, `(a,)`, `[a]`; `(a)` is `a`."""
        close = ")" if self.take().text == "(" else "]"
        parts: list[Structure] = []
        comma = False
        while not self.at(close):
            parts.append(self.tree(leaf))
            comma = self.at(",")
            if not self.at(close):
                self.expect(",")
        self.expect(close)
        if close == ")" and len(parts) == 1 and not comma:
            return parts[0]
        return Structure("tuple" if close == ")" else "list", tuple(parts))

    def mapping(self, leaf: Callable[[], None]) -> Structure:
        """{"key": tree, ...}."""
        self.expect("{")
        parts: dict[Any, Structure] = {}
        for _ in self.until("}"):
            key = self.literal()
            self.expect(":")
            parts[key] = self.tree(leaf)
        return Structure("dict", tuple(parts.values()), tuple(parts))

    def fields(self, leaf: Callable[[], None]) -> dict[str, Structure]:
        """(name=tree, ...)."""
        self.expect("(")
        parts: dict[str, Structure] = {}
        for _ in self.until(")"):
            key = self.take("word").text
            self.expect("=")
            parts[key] = self.tree(leaf)
        return parts

    # types

    def declared_type(self) -> tuple[str, Token] | None:
        """`: type` as text."""
        if not self.at(":"):
            return None
        self.take()
        return self.type_text(), self.token

    def type_text(self) -> str:
        """`f32[1]`, `(f32[1], none)`, `int`."""
        if not self.at("("):
            word = self.take("word")
            if word.text not in DTYPES or not self.at("["):
                return word.text
            self.position -= 1
            return show_type(self.fake(*self.tensor_type()))
        self.take()
        parts: list[str] = []
        for _ in self.until(")"):
            parts.append(self.type_text())
        return f"({', '.join(parts)})"

    def tensor_type(self) -> tuple[torch.dtype, list[int]]:
        """dtype[dims]."""
        word = self.take("word")
        if word.text not in DTYPES:
            self.fail(f"unknown dtype {word.text}", word)
        self.expect("[")
        shape: list[int] = []
        for _ in self.until("]"):
            dim = self.take("number")
            if not dim.text.isdigit():
                self.fail(f"{dim.text} is not an extent", dim)
            shape.append(int(dim.text))
        return DTYPES[word.text], shape

    def fake(self, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
        """A value without data."""
        with self.fakes.mode:
            return torch.empty(shape, dtype=dtype)

    # values

    def weight_name(self, word: Token) -> str:
        """`conv.weight` of `@conv.weight` or `@"conv.weight"`."""
        return str(json.loads(word.text[1:])) if word.text[1] == '"' else word.text[1:]

    def literal(self) -> Any:
        """A number, string, word or list of literals."""
        if self.at("["):
            self.take()
            return [self.literal() for _ in self.until("]")]
        word = self.take()
        if word.kind == "string":
            return json.loads(word.text)
        if word.kind == "number":
            return int(word.text) if re.fullmatch(r"-?\d+", word.text) else float(word.text)
        if word.kind == "word" and word.text in WORDS:
            return WORDS[word.text]
        return self.fail(f"{word.text} is not a value", word)

    def tensor_values(self, dtype: torch.dtype, shape: list[int]) -> torch.Tensor | None:
        """What stands right of the equals sign."""
        if self.token.text not in ("random", "positive"):
            return read_tensor(self.literal(), dtype, shape)
        kind = self.take().text
        self.expect("(")
        seed = self.take("number")
        self.expect(")")
        return make_tensor(kind, int(seed.text), dtype, shape)
