"""The ordered lists of passes, each entry with its "because". The only place that decides order.

    pipeline(pipeline(program)) == pipeline(program)

The lists give the order of the first round. What a pass does may be what an earlier one waits for: a merge ends a
branch that barred an affine, a fold leaves an identity. `Repeat` therefore runs the passes again whose input was
rewritten after they had looked at it, until none finds anything. Most graphs are done in two rounds, and a round in
which nothing is left costs a look at each node.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import OptionError
from .base import Pass, Repeat, Step
from .fold.fold_affine_backward import FoldAffineBackward
from .fold.fold_affine_forward import FoldAffineForward
from .fold.fold_constants import FoldConstants
from .fold.lower_batch_norm import LowerBatchNorm
from .group.group_regions import GroupRegions
from .normalize.canonicalize_arguments import CanonicalizeArguments
from .normalize.canonicalize_attention import CanonicalizeAttention
from .normalize.canonicalize_casts import CanonicalizeCasts
from .normalize.canonicalize_convolutions import CanonicalizeConvolutions
from .normalize.canonicalize_linear import CanonicalizeLinear
from .normalize.canonicalize_norms import CanonicalizeNorms
from .normalize.canonicalize_pads import CanonicalizePads
from .normalize.canonicalize_pointwise import CanonicalizePointwise
from .normalize.canonicalize_pools import CanonicalizePools
from .normalize.canonicalize_reductions import CanonicalizeReductions
from .normalize.canonicalize_slices import CanonicalizeSlices
from .normalize.canonicalize_views import CanonicalizeViews
from .normalize.decompose_composites import DecomposeComposites
from .normalize.decompose_resizes import DecomposeResizes
from .normalize.lift_constants import LiftConstants
from .normalize.lift_empty import LiftEmpty
from .normalize.mark_normalized import MarkNormalized
from .normalize.merge_pads import MergePads
from .normalize.merge_views import MergeViews
from .normalize.remove_copies import RemoveCopies
from .normalize.remove_dead_code import RemoveDeadCode
from .normalize.remove_dropout import RemoveDropout
from .normalize.remove_duplicates import RemoveDuplicates
from .normalize.remove_identities import RemoveIdentities
from .norms.carry_affine_over_sum import CarryAffineOverSum
from .norms.carry_scale_over_product import CarryScaleOverProduct
from .norms.center_stream import CenterStream
from .precision.lower_to_bfloat16 import LowerToBfloat16
from .quantize.decompose_attention import DecomposeAttention
from .quantize.equalize_channels import EqualizeChannels
from .quantize.move_attention_biases import MoveAttentionBiases
from .quantize.recognize_norms import RecognizeNorms
from .quantize.split_projections import SplitProjections
from .reparameterize.merge_branches import MergeBranches
from .reparameterize.merge_chains import MergeChains
from .reparameterize.merge_parallel import MergeParallel
from .reparameterize.merge_transposed import MergeTransposed
from .reparameterize.unstack_means import UnstackMeans

NORMALIZE: tuple[Pass, ...] = (
    RemoveDeadCode(),  # nothing below should spend time on what nobody reads
    CanonicalizeArguments(),  # all rules below read arguments by position
    LiftEmpty(),  # before any formula divides by an extent of 0
    RemoveDropout(),  # before decompositions take its formula apart
    DecomposeComposites(),  # what it makes is spelled by the passes below
    DecomposeResizes(),  # makes gathers, products and views
    CanonicalizeConvolutions(),  # makes pads and reshapes
    CanonicalizeNorms(),  # makes reductions and pointwise formulas
    CanonicalizeLinear(),  # reads transposes of constants before views are respelled; makes pointwise sums
    CanonicalizeAttention(),  # makes views
    CanonicalizePools(),  # makes reductions and views
    CanonicalizeReductions(),  # makes casts, reshapes and pointwise formulas
    CanonicalizePads(),  # makes slices and cats
    CanonicalizeViews(),  # before copies go: `view` needs strides, `reshape` does not
    CanonicalizeCasts(),  # so that a cast to the same dtype is gone before numbers are read through it
    RemoveCopies(),  # uncovers neighbouring views and constants behind copies
    LiftConstants(),  # so that numbers made by `full` are seen as numbers, places made by `arange` as places
    CanonicalizeSlices(),  # after constants are constants: gathers at constant places; makes selections under masks
    CanonicalizePointwise(),  # after all that make pointwise formulas and constants
    RemoveIdentities(),  # after numbers are numbers
    MergePads(),  # after pads and convolutions have their one spelling, and nothing stands between them
    MergeViews(),  # after all that make views
    RemoveDuplicates(),  # equal calls are spelled equally by now
    RemoveDeadCode(),  # what rewriting left behind
    MarkNormalized(),  # the verifier agrees
)
"""CAPTURED → NORMALIZED: a single spelling for each meaning."""

FOLD: tuple[Pass, ...] = (
    FoldConstants(),  # first: the passes below scale weights, and an expression of weights is none yet
    CanonicalizeSlices(),  # gathers whose places were an expression are gathers at constant places now
    CanonicalizeLinear(),  # a product with a matrix that was computed is a linear layer now
    FoldConstants(),  # the transposes this made
    MergeViews(),  # the reshapes that flattened rows for a product and gave them their shape back
    FoldAffineBackward(),  # before forward: a producer takes an affine at no condition on padding
    UnstackMeans(),  # makes sums of what merge_branches adds up
    MergeBranches(),  # reads the affines on identity branches that no producer could take; before they go elsewhere
    MergeTransposed(),  # sums of what merge_branches does not read
    MergeChains(),  # after branches: a merged block is one link
    MergeParallel(),  # after chains: what stands side by side is one operator each by now
    FoldAffineBackward(),  # norms behind a sum have one producer now
    FoldAffineForward(),  # what no producer could take
    CarryAffineOverSum(),  # what stands between two sums of a residual stream, and so could go neither way
    CarryScaleOverProduct(),  # gains that stand behind a gate, and so could go neither way
    CenterStream(),  # after layer scales and norm weights have gone into the writers and readers of streams
    LowerBatchNorm(),  # what nothing could take becomes a mul and an add, for some kernel's epilogue
    MergeViews(),  # views that had an affine between them are neighbours now
    RemoveDuplicates(),  # so are equal calls that had different constants in front
    FoldAffineBackward(),  # the product that several equal norms had is one now, and its producer may take it
)
"""NORMALIZED → OPTIMIZED without approximations: constants and affines go into weights."""

EXACT: tuple[Step, ...] = (
    Repeat("exact", (*NORMALIZE, *FOLD)),  # as one group: what folding leaves may have another spelling
)
"""CAPTURED → OPTIMIZED, equal over the reals: what every door runs unless told otherwise."""

GIVEN: tuple[Pass, ...] = (
    *NORMALIZE,
    FoldConstants(),  # what is computed of constants alone
    CanonicalizeSlices(),  # after constants, which bounds may come from
    CanonicalizeLinear(),  # one spelling of linear layers
    FoldConstants(),  # the transposed weights of these
    MergeViews(),  # views around linear layers stand alone then
    FoldAffineBackward(),  # a number a channel of results: another scale for the same codes
    LowerBatchNorm(),  # what is left of norms
    MergeViews(),  # what norms stood between
    RemoveDuplicates(),  # last: equal spellings are equal by now
)
"""What may be rewritten where weights stand on given codes."""

IMPORTED: tuple[Step, ...] = (
    Repeat("imported", GIVEN),  # as one group, like the exact rewrites
)
"""CAPTURED → OPTIMIZED for graphs that others quantized: without what mixes weights, which stand on given codes."""

BFLOAT16: tuple[Pass, ...] = (
    LowerToBfloat16(),  # after folding, whose products of weights are rounded once; before grouping, which fuses casts
)
"""OPTIMIZED → OPTIMIZED in bfloat16: what `precision="bfloat16"` adds."""

INTEGER: tuple[Pass, ...] = (
    RecognizeNorms(),  # norms that are written out: of their parts each would be rounded
    SplitProjections(),  # before attention goes: queries, keys and values are told apart by what reads them
    DecomposeAttention(),  # products and a softmax, which integers have
    MergeViews(),  # what is left of the views behind a layer that was split
    MoveAttentionBiases(),  # reads products, softmax and the views between them
)
"""OPTIMIZED → OPTIMIZED in operators that have integer forms: what calibration for `precision="int8"` looks at."""

EQUALIZE: tuple[Pass, ...] = (EqualizeChannels(),)
"""OPTIMIZED → OPTIMIZED after INTEGER, where asked for: nothing may change weights between this and calibration."""

GROUP: tuple[Pass, ...] = (GroupRegions(),)
"""OPTIMIZED → GROUPED: last, because regions hide single ops from rules."""

COMPILE: tuple[Step, ...] = (*EXACT, *GROUP)
"""CAPTURED → GROUPED: everything before code generation."""

PIPELINES: Mapping[str, tuple[Step, ...]] = {
    "normalize": (Repeat("normalize", NORMALIZE),),  # what one pass respells may be what an earlier one reads
    "exact": EXACT,
    "bfloat16": (*EXACT, *BFLOAT16),
    "group": GROUP,
    "compile": COMPILE,
}
"""Pipelines by name."""


def pipeline(name: str) -> tuple[Step, ...]:
    """Return the steps of a named pipeline."""
    if name not in PIPELINES:
        raise OptionError(f"There is no pipeline {name!r}.", f"Pipelines are {', '.join(PIPELINES)}.")
    return PIPELINES[name]
