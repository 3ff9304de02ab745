"""Export and import: what is written is read again, the faster record stays, and a wrong file changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planish.backends.tvm.tune.database import Attempt, Database, Record
from planish.backends.tvm.tune.exchange import read, written
from planish.errors import TuningDatabaseError

HEADER = '{"format": "planish tuning", "version": 1}\n'


def filled() -> Database:
    database = Database(None)
    database.record("a", Record("direct", {"tile": "6x2", "deep": True, "rows": 4}, 1.5, 2.0, "conv ✓", 10.25))
    database.record("b", Record("generic", {}, 3.0, 3.0, "sum", 11.5))
    database.attempt("a", Attempt("direct", {"tile": "7x2"}, None, "SIGSEGV", 9.0))
    database.attempt("a", Attempt("direct", {"tile": "6x2"}, 1.5, "", 9.5))
    return database


def entry(**changes: Any) -> str:
    good = {"kind": "record", "key": "k", "template": "t", "choice": {}, "seconds": 1.0, "default_seconds": 1.0}
    return json.dumps({**good, "what": "", "at": 1.0, **changes})


def test_an_export_is_read_again_as_it_was() -> None:
    database, copy = filled(), Database(None)
    records, attempts = read(written(database), "x")
    assert copy.merge(records, attempts) == (2, 2)
    assert copy.records() == database.records()
    assert copy.all_attempts() == database.all_attempts()
    assert list(written(copy)) == list(written(database))


def test_a_merge_keeps_the_faster() -> None:
    ours, theirs = Database(None), Database(None)
    for key, mine, other in (("a", 1.0, 2.0), ("b", 2.0, 1.0)):
        ours.record(key, Record("ours", {}, mine, 3.0))
        theirs.record(key, Record("theirs", {}, other, 3.0))
    assert ours.merge(*read(written(theirs), "x"))[0] == 1
    assert {key: record.template for key, record in ours.records()} == {"a": "ours", "b": "theirs"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "it is empty"),
        (["not json\n"], "line 1: "),
        (["[1]\n"], "line 1: it is no JSON object"),
        (['{"format": "x"}\n'], "line 1: it does not begin"),
        (['{"format": "planish tuning", "version": 2}\n'], "line 1: its version is 2; this planish reads 1"),
        ([HEADER, entry(kind="note")], "line 2: its kind is 'note'"),
        ([HEADER, entry(), entry(key=None)], "line 3: its key is None"),
        ([HEADER, entry(seconds=-1.0)], "line 2: its seconds is -1.0"),
        ([HEADER, entry(seconds=float("nan"))], "line 2: its seconds is nan"),
        ([HEADER, entry(seconds=True)], "line 2: its seconds is True"),
        ([HEADER, entry(default_seconds="1")], "line 2: its default_seconds is '1'"),
        ([HEADER, entry(choice=[1])], "line 2: its choice is"),
        ([HEADER, entry(choice={"a": 1.5})], "line 2: 'a' is 1.5, which no choice holds"),
        ([HEADER, entry(at=None)], "line 2: its at is None"),
        ([HEADER, entry()[:-9]], "line 2: "),
    ],
)
def test_a_wrong_file_is_refused_by_line(lines: list[str], said: str) -> None:
    with pytest.raises(TuningDatabaseError, match=said) as refusal:
        read(lines, "shared.jsonl")
    assert refusal.value.what.startswith("shared.jsonl is no export of a tuning database: ")
