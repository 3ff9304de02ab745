"""The ordered lists of passes, each entry with its "because". The only place that decides order."""

from __future__ import annotations

from .base import Pass
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
from .normalize.mark_normalized import MarkNormalized
from .normalize.merge_views import MergeViews
from .normalize.remove_copies import RemoveCopies
from .normalize.remove_dead_code import RemoveDeadCode
from .normalize.remove_dropout import RemoveDropout
from .normalize.remove_duplicates import RemoveDuplicates
from .normalize.remove_identities import RemoveIdentities

NORMALIZE: tuple[Pass, ...] = (
    RemoveDeadCode(),  # nothing below should spend time on what nobody reads
    CanonicalizeArguments(),  # all rules below read arguments by position
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
    CanonicalizeSlices(),  # makes casts, reshapes and selections under masks
    CanonicalizeViews(),  # before copies go: `view` needs strides, `reshape` does not
    CanonicalizeCasts(),  # so that a cast to the same dtype is gone before numbers are read through it
    RemoveCopies(),  # uncovers neighbouring views and constants behind copies
    LiftConstants(),  # so that numbers made by `full` are seen as numbers
    CanonicalizePointwise(),  # after all that make pointwise formulas and constants
    RemoveIdentities(),  # after numbers are numbers
    MergeViews(),  # after all that make views
    RemoveDuplicates(),  # equal calls are spelled equally by now
    RemoveDeadCode(),  # what rewriting left behind
    MarkNormalized(),  # the verifier agrees
)
"""CAPTURED → NORMALIZED: a single spelling for each meaning."""
