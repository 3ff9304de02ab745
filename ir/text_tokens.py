"""The text form's tokens, each with its line and column, and a cursor over them (see `text`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from ..errors import TextError

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    | (?P<comment>\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\\n])*")
    | (?P<number>-?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|inf\b|nan\b))
    | (?P<value>%\w+)
    | (?P<weight>@(?:[\w.]+|"(?:\\.|[^"\\\n])*"))
    | (?P<word>[A-Za-z_]\w*(?:(?:::|\.)\w+)*)
    | (?P<mark>[(){}\[\],:=])
    """,
    re.VERBOSE | re.ASCII,
)


@dataclass(frozen=True)
class Token:
    """A piece of text: its kind, itself, and where it starts."""

    kind: str
    text: str
    line: int
    column: int


def tokenize(text: str) -> tuple[list[Token], dict[int, str]]:
    """Tokens without space, and the comments by line."""
    tokens: list[Token] = []
    comments: dict[int, str] = {}
    position, line, start = 0, 1, 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        column = position - start + 1
        if found is None:
            raise TextError(f"line {line}, column {column}: unexpected {text[position]!r}", "See `ir/text.py`.")
        kind, word = str(found.lastgroup), found.group()
        if kind == "comment":
            comments[line] = word[1:].strip()
        elif kind != "space":
            tokens.append(Token(kind, word, line, column))
        newlines = word.count("\n")
        if newlines:
            line, start = line + newlines, position + word.rindex("\n") + 1
        position = found.end()
    tokens.append(Token("end", "end of text", line, len(text) - start + 1))
    return tokens, comments


class Cursor:
    """Reads tokens one by one; every error says where."""

    def __init__(self, text: str) -> None:
        """Start at the first token."""
        self.tokens, self.comments = tokenize(text)
        self.position = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self.tokens[self.position]

    def at(self, text: str) -> bool:
        """Whether the next token is this mark or word."""
        return self.token.text == text and self.token.kind in ("mark", "word")

    def take(self, kind: str | None = None) -> Token:
        """Read one token, of that kind."""
        word = self.token
        if word.kind == "end" or kind not in (None, word.kind):
            self.fail(f"expected a {kind or 'token'}, found {word.text}", word)
        self.position += 1
        return word

    def peek(self) -> Token:
        """The token after the next."""
        return self.tokens[min(self.position + 1, len(self.tokens) - 1)]

    def comment(self) -> str:
        """The comment on the line of the token just read."""
        return self.comments.get(self.tokens[self.position - 1].line, "")

    def expect(self, text: str) -> None:
        """Read exactly this."""
        if not self.at(text):
            self.fail(f"expected {text!r}, found {self.token.text!r}")
        self.position += 1

    def until(self, close: str) -> Iterator[None]:
        """Once for each part of a list, up to the mark that closes it; commas between, and one more if one likes."""
        while not self.at(close):
            yield
            if not self.at(close):
                self.expect(",")
        self.expect(close)

    def name(self) -> str:
        """A word or a quoted name."""
        return self.string() if self.token.kind == "string" else self.take("word").text

    def string(self) -> str:
        """A quoted string."""
        return str(json.loads(self.take("string").text))

    def fail(self, what: str, token: Token | None = None) -> NoReturn:
        """Raise with line and column."""
        at = token or self.token
        raise TextError(f"line {at.line}, column {at.column}: {what}", "See `ir/text.py` for the text form.")
