"""canonicalize_casts: a dtype and nothing else."""

from __future__ import annotations

import pytest
from spelling import spelled

from planish.passes.normalize.canonicalize_casts import CanonicalizeCasts


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("to.dtype(%x, f64)", ["_to_copy(%x, dtype=f64)"]),
        ("to.dtype(%x, f32, false, true)", []),
        ("type_as(%x, %i)", ["_to_copy(%x, dtype=i64)"]),
        ("to.device(%x, cpu, f16)", ["_to_copy(%x, dtype=f16)"]),
        ("to.dtype_layout(%i, dtype=bool, layout=strided)", ["_to_copy(%i, dtype=bool)"]),
        ("_to_copy(%x, memory_format=contiguous_format)", []),
        ("prims::convert_element_type(%x, bf16)", ["_to_copy(%x, dtype=bf16)"]),
    ],
)
def test_spelling(call: str, wanted: list[str]) -> None:
    assert spelled(CanonicalizeCasts(), "%x: f32[2], %i: i64[2]", call) == wanted
