"""The kernel templates in order of trial. The generic scheduler is last and takes what the others refuse.

template(region) = first t of TEMPLATES with t.wants(region)
"""

from __future__ import annotations

from ..generic.template import Generic
from ..template import Template
from .attention import Attention
from .concat import Concat
from .conv_direct import ConvDirect
from .conv_integer import ConvInteger
from .conv_transposed import ConvTransposed
from .depthwise import Depthwise
from .depthwise_integer import DepthwiseInteger
from .gemm import Gemm
from .gemm_integer import GemmInteger
from .matmul import Matmul
from .matmul_integer import MatmulInteger, MatmulWords
from .norm import Norms
from .pool import Pool
from .pool_integer import PoolInteger
from .softmax import Softmax
from .softmax_integer import SoftmaxInteger
from .spatial_mean import SpatialMean
from .winograd import Winograd
from .winograd_integer import WinogradInteger

TEMPLATES: tuple[Template, ...] = (
    DepthwiseInteger(),
    Depthwise(),  # before ConvDirect, which would take it with vectors of one lane
    Winograd(4),  # refuses what direct convolution should do faster, and numerics="strict"
    Winograd(2),
    ConvDirect(),
    WinogradInteger(4),  # refuses what direct convolution should do faster
    WinogradInteger(2),
    ConvInteger(),
    ConvTransposed(),
    Gemm(),  # before Matmul, which would pack its constant weight at run time
    GemmInteger(),
    Matmul(),
    MatmulInteger(),
    MatmulWords(),
    Attention(),
    Pool(),
    PoolInteger(),
    Softmax(),
    SoftmaxInteger(),
    Norms(),
    SpatialMean(),
    Concat(),
    Generic(),
)
