"""What tuning found, by content: one sqlite file that survives kill -9 and many writers.

best(key) == the fastest record ever given for key         attempts(key) == all that was tried for it, failures too

Every write is one transaction of a write-ahead log, so that a reader sees it whole or not at all, and a tuner that
dies loses what it had not written yet: the candidate under way. A failed attempt is remembered like any other;
whoever searches asks `attempts` first and tries nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import TuningDatabaseError
from ..objects import default_folder

if TYPE_CHECKING:
    from ..template import Choice

APPLICATION = 0x706C6E73
"""The mark in the file's header that says whose it is: "plns"."""

VERSION = 1
"""Of the tables below."""

_TABLES = """
CREATE TABLE records (
    key TEXT PRIMARY KEY, template TEXT NOT NULL, choice TEXT NOT NULL, seconds REAL NOT NULL,
    default_seconds REAL NOT NULL, at REAL NOT NULL, what TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE attempts (
    key TEXT, template TEXT, choice TEXT, seconds REAL, why TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (key, template, choice)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Record:
    """The kernel chosen for a key: `choice` of `template`, its seconds a call and those of the default then.

    `what` describes the task to a person. A choice that the template's space does not have any more is to be
    ignored by its reader.
    """

    template: str
    choice: Choice
    seconds: float
    default_seconds: float
    what: str = ""
    at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Attempt:
    """One candidate that was tried: its seconds, or None and `why` it failed."""

    template: str
    choice: Choice
    seconds: float | None
    why: str = ""
    at: float = field(default_factory=time.time)


def choice_text(choice: Choice) -> str:
    """A choice as canonical text: equal choices have equal texts."""
    return json.dumps(dict(choice), sort_keys=True, separators=(",", ":"))


def default_path() -> Path | None:
    """This user's database, beside the cache of objects; None if nothing may be kept on disk."""
    folder = default_folder()
    return folder.parent / "tuning.sqlite" if folder is not None else None


class Database:
    """A file of records and attempts; `path` None keeps them in memory. Usable from any thread, not across a fork."""

    def __init__(self, path: str | Path | None, patience: float = 30.0) -> None:
        """Open or create; raises TuningDatabaseError for a file that is damaged or somebody else's, and keeps it.

        `patience` is how many seconds to wait for other writers.
        """
        self.path = Path(path) if path is not None else None
        self._lock = threading.Lock()
        with self._errors():
            if self.path is not None:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                str(self.path or ":memory:"), timeout=patience, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Database:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def best(self, key: str) -> Record | None:
        """The record of a key."""
        query = "SELECT template, choice, seconds, default_seconds, what, at FROM records WHERE key = ?"
        rows = self._rows(query, key)
        return _record(rows[0]) if rows else None

    def record(self, key: str, record: Record, *, replace: bool = False) -> bool:
        """Keep `record` if it is the first or the fastest of its key, or in any case with `replace`.

        Whether it was kept. The comparison and the write are one transaction.
        """
        return self.merge([(key, record)], (), replace=replace)[0] == 1

    def attempts(self, key: str) -> list[Attempt]:
        """All that was tried for a key, in no order."""
        query = "SELECT template, choice, seconds, why, at FROM attempts WHERE key = ?"
        return [Attempt(row[0], json.loads(row[1]), *row[2:]) for row in self._rows(query, key)]

    def attempt(self, key: str, attempt: Attempt) -> None:
        """Remember what was tried; of equal choices the last."""
        self.merge((), [(key, attempt)])

    def records(self) -> list[tuple[str, Record]]:
        """Every key and its record, the oldest first."""
        query = "SELECT key, template, choice, seconds, default_seconds, what, at FROM records ORDER BY at, key"
        return [(row[0], _record(row[1:])) for row in self._rows(query)]

    def all_attempts(self) -> list[tuple[str, Attempt]]:
        """Every key and attempt, the oldest first."""
        query = "SELECT key, template, choice, seconds, why, at FROM attempts ORDER BY at, key, template, choice"
        return [(row[0], Attempt(row[1], json.loads(row[2]), *row[3:])) for row in self._rows(query)]

    def merge(
        self,
        records: Iterator[tuple[str, Record]] | list[tuple[str, Record]] | tuple[()],
        attempts: Iterator[tuple[str, Attempt]] | list[tuple[str, Attempt]] | tuple[()],
        *,
        replace: bool = False,
    ) -> tuple[int, int]:
        """Add all of them in one transaction; of one key the faster record stays. How many of each were kept."""
        kept = [0, 0]
        faster = "" if replace else "WHERE excluded.seconds < records.seconds"
        with self._transaction() as connection:
            for key, r in records:
                row = (key, r.template, choice_text(r.choice), r.seconds, r.default_seconds, r.at, r.what)
                kept[0] += connection.execute(
                    "INSERT INTO records (key, template, choice, seconds, default_seconds, at, what) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET template = excluded.template, "
                    "choice = excluded.choice, seconds = excluded.seconds, default_seconds = excluded.default_seconds, "
                    f"at = excluded.at, what = excluded.what {faster}",
                    row,
                ).rowcount
            for key, a in attempts:
                kept[1] += connection.execute(
                    "INSERT OR REPLACE INTO attempts (key, template, choice, seconds, why, at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (key, a.template, choice_text(a.choice), a.seconds, a.why, a.at),
                ).rowcount
        return kept[0], kept[1]

    def close(self) -> None:
        """Close the file; further calls raise."""
        self._connection.close()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Others' writes wait; all or nothing."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.OperationalError):  # sqlite itself went back, as on a full disk
                    self._connection.execute("ROLLBACK")
                raise

    def _prepare(self) -> None:
        """Check whose file it is, and make the tables of a new one."""
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if self._is_new():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("BEGIN IMMEDIATE")
            if self._is_new():  # nobody else was faster
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {VERSION}")
            self._connection.execute("COMMIT")
        self._check()

    def _is_new(self) -> bool:
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return not tables and not self._pragma("application_id")

    def _check(self) -> None:
        if self._pragma("application_id") != APPLICATION:
            raise self._refusal("is a database of another program")
        version = self._pragma("user_version")
        if version != VERSION:
            kind = "newer" if version > VERSION else "older"
            raise self._refusal(f"has version {version} and was written by a {kind} planish; this one has {VERSION}")
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._refusal(f"is damaged: {found}")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _refusal(self, why: str) -> TuningDatabaseError:
        return TuningDatabaseError(
            f"The tuning database {self.path} {why}.",
            "Give another tuning_db, or move that file away; planish never deletes it.",
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever sqlite says, as an error of planish."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise TuningDatabaseError(
                    f"The tuning database {self.path} is locked by another process.",
                    "Wait for it to end; a process that was stopped (ctrl-Z) keeps its lock.",
                ) from None
            raise TuningDatabaseError(
                f"The tuning database {self.path} cannot be used: {error}.",
                "Check the path, its permissions and the room on the disk, or give another tuning_db.",
            ) from None
        except sqlite3.DatabaseError as error:
            raise self._refusal(f"is damaged or is none ({error})") from None
        except OSError as error:
            raise TuningDatabaseError(
                f"The tuning database {self.path} cannot be opened: {error.strerror or error}.",
                "Give another tuning_db, in a folder that can be written.",
            ) from None


def _record(row: tuple[Any, ...]) -> Record:
    template, choice, *rest = row
    return Record(template, json.loads(choice), *rest)


def as_choice(value: Mapping[str, Any]) -> Choice:
    """A choice read from elsewhere; ValueError if its values are not plain."""
    for name, held in value.items():
        if not isinstance(name, str) or not isinstance(held, bool | int | str):
            raise ValueError(f"{name!r} is {held!r}, which no choice holds")
    return dict(value)
