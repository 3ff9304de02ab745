"""A tuning database as text that other machines and people can take: JSON, one entry a line.

read(written(database)) == the database's records and attempts

The first line says what the file is and in which version; then one line for each record and each attempt. All of it
is checked before any of it is taken, and where two files know the same task, the faster record stays.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ....errors import TuningDatabaseError
from ..files import write_atomically
from .database import Attempt, Database, Record, as_choice, default_path

FORMAT = "planish tuning"
VERSION = 1

Entries = tuple[list[tuple[str, Record]], list[tuple[str, Attempt]]]


class Merged(NamedTuple):
    """What an import did: entries in the file, and how many of them were taken."""

    records: int
    attempts: int
    taken: int


def open_database(path: str | os.PathLike[str] | None) -> Database:
    """The database at `path`, or the user's own; raises TuningDatabaseError if there is none."""
    chosen = default_path() if path is None else Path(path)
    if chosen is None or not chosen.exists():
        raise TuningDatabaseError(
            f"There is no tuning database at {chosen}." if chosen else "Nothing is kept: PLANISH_CACHE_DIR is empty.",
            "Tune a model or import a database first, or give --tuning-db.",
        )
    return Database(chosen)


def export_file(database: str | os.PathLike[str] | None, file: str) -> int:
    """Write a database's entries to `file` ("-": standard output); how many there are."""
    with open_database(database) as source:
        lines = list(written(source))
    if file == "-":
        sys.stdout.writelines(lines)
    else:

        def fill(stream: BinaryIO) -> None:
            stream.writelines(line.encode() for line in lines)

        write_atomically(file, fill)
    return len(lines) - 1


def import_file(database: str | os.PathLike[str] | None, file: str) -> Merged:
    """Add a file's entries ("-": standard input) to a database, which is made if there is none."""
    path = default_path() if database is None else Path(database)
    if path is None:
        raise TuningDatabaseError("Nothing is kept: PLANISH_CACHE_DIR is empty.", "Give --tuning-db.")
    try:
        with contextlib.nullcontext(sys.stdin) if file == "-" else open(file, encoding="utf-8") as lines:
            records, attempts = read(lines, file)
    except OSError as error:
        raise TuningDatabaseError(f"{file} cannot be read: {error.strerror}.", "Check the path.") from None
    except UnicodeDecodeError:
        raise _refusal(file, "it is no text") from None
    with Database(path) as target:
        taken, _ = target.merge(records, attempts)
    return Merged(len(records), len(attempts), taken)


def written(database: Database) -> Iterator[str]:
    """The lines of a file with all that a database knows."""
    yield _line({"format": FORMAT, "version": VERSION})
    for key, record in database.records():
        yield _line({"kind": "record", "key": key, **_plain(record)})
    for key, attempt in database.all_attempts():
        yield _line({"kind": "attempt", "key": key, **_plain(attempt)})


def read(lines: Iterable[str], name: str) -> Entries:
    """The entries of a file; raises TuningDatabaseError, with the line, for anything that is not as it should be."""
    records: list[tuple[str, Record]] = []
    attempts: list[tuple[str, Attempt]] = []
    seen = 0
    for number, line in enumerate(lines, start=1):
        seen = number
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("it is no JSON object")
            if number == 1:
                _check_header(entry)
            elif entry.get("kind") == "record":
                records.append((_text(entry, "key"), _record(entry)))
            elif entry.get("kind") == "attempt":
                attempts.append((_text(entry, "key"), _attempt(entry)))
            else:
                raise ValueError(f"its kind is {entry.get('kind')!r}, neither 'record' nor 'attempt'")
        except ValueError as error:
            raise _refusal(name, f"line {number}: {error}") from None
    if not seen:
        raise _refusal(name, "it is empty")
    return records, attempts


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True) + "\n"


def _plain(entry: Record | Attempt) -> dict[str, Any]:
    return {**vars(entry), "choice": dict(entry.choice)}


def _check_header(entry: dict[str, Any]) -> None:
    if entry.get("format") != FORMAT:
        raise ValueError("it does not begin as an export of planish does")
    if entry.get("version") != VERSION:
        raise ValueError(f"its version is {entry.get('version')!r}; this planish reads {VERSION}")


def _record(entry: dict[str, Any]) -> Record:
    return Record(
        _text(entry, "template"),
        _choice(entry),
        _number(entry, "seconds", _is_time),
        _number(entry, "default_seconds", _is_time),
        _text(entry, "what"),
        _number(entry, "at"),
    )


def _attempt(entry: dict[str, Any]) -> Attempt:
    seconds = None if entry.get("seconds") is None else _number(entry, "seconds", _is_time)
    return Attempt(_text(entry, "template"), _choice(entry), seconds, _text(entry, "why"), _number(entry, "at"))


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its {name} is {value!r}, not a string")
    return value


def _choice(entry: dict[str, Any]) -> dict[str, int | str | bool]:
    value = entry.get("choice")
    if not isinstance(value, dict):
        raise ValueError(f"its choice is {value!r}, not an object")
    return dict(as_choice(value))


def _number(entry: dict[str, Any], name: str, good: Callable[[float], bool] = math.isfinite) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not good(value):
        raise ValueError(f"its {name} is {value!r}")
    return float(value)


def _is_time(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _refusal(name: str, why: str) -> TuningDatabaseError:
    return TuningDatabaseError(
        f"{name} is no export of a tuning database: {why}.", "Nothing was imported; export it again."
    )
