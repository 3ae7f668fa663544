"""attend(): the one entry to attention. It runs the first kernel that supports the request on its platform.

A kernel is a file of `xla/`, `gpu/` or `tpu/` (the protocol is in request.py). To add a kernel, put it into KERNELS
before slower kernels. A kernel must do everything that a request asks for, or its `supports` says why it does not take
the request.
`ModelConfig.kernels` chooses or excludes kernels by name; `recorded_choices` says which kernels were chosen, and why.

visibility.py and scoring.py are the values of a request: which keys a query sees, and how it scores them. `mesh/` gives
every device its arrays. `experts/` has the kernels for experts, which are chosen in the same way.
"""

from typing import Any

import jax

from model.errors import UserError
from model.kernels.gpu.cudnn import CuDNN
from model.kernels.gpu.pages import GPUPages
from model.kernels.gpu.tokamax import Tokamax
from model.kernels.gpu.triton import Triton
from model.kernels.mesh.shards import Arrays, attend_on_shards
from model.kernels.paged_array import PagedArray
from model.kernels.request import Kernel, Request, compute_capability
from model.kernels.scoring import Bias, Scoring
from model.kernels.selection import Choice, choose, record_choice, recorded_choices, runs_on
from model.kernels.tpu.pages import TPUPages
from model.kernels.tpu.splash import Splash
from model.kernels.visibility import Visibility
from model.kernels.xla.blocks import Blocks
from model.kernels.xla.dropped import keys_of_heads
from model.kernels.xla.pages import Pages
from model.kernels.xla.plain import Plain, attention_weights
from model.kernels.xla.tiles import Tiles
from model.layout import ONE_DEVICE, Layout

__all__ = [
    "KERNELS",
    "Choice",
    "attend",
    "attention_weights",
    "choose",
    "needs_cleared_pages",
    "new_request",
    "recorded_choices",
]

# In the order in which `choose` asks them: kernels of one GPU or TPU first, the fastest before the others.
KERNELS: tuple[Kernel, ...] = (CuDNN(), Tokamax(), Triton(), Splash(), Blocks(), Tiles(), Plain())

# Kernels that a compiler can split over devices, for keys that are split in another way than queries: a long cache.
FOR_COMPILERS: tuple[Kernel, ...] = (Blocks(), Plain())

# Kernels that read keys from pages (model/kernels/paged_array.py), in the order in which `choose` asks them.
FOR_PAGES: tuple[TPUPages | GPUPages | Pages, ...] = (TPUPages(), GPUPages(), Pages())
# On a mesh XLA splits the rows and heads of this kernel, and groups of rows would gather them. It cannot split those of
# platforms, which are not asked there.
FOR_PAGES_ON_MESHES: tuple[Pages, ...] = (Pages(group=None),)


def needs_cleared_pages(layout: Layout) -> bool:
    """Whether a kernel that reads pages on these devices needs them cleared (`PagedArray`)."""
    kernels = FOR_PAGES if layout.num_devices == 1 else FOR_PAGES_ON_MESHES
    return any(kernel.needs_cleared_pages and runs_on(kernel, layout.platform) for kernel in kernels)


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array | PagedArray,
    v_BSKH: jax.Array | PagedArray,
    visibility: Visibility,
    scoring: Scoring,
    *,
    bias: Bias | None = None,
    sink_N: jax.Array | None = None,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
    platform: str | None = None,
    kernels: tuple[Kernel, ...] = KERNELS,
) -> jax.Array:
    """Computes grouped-query attention, softmax(scale * q k^T + bias) v over the keys that each query sees.

    Vaswani et al. 2017, equation 1; groups of query heads share a key head (Ainslie et al. 2023, "GQA").

    Args:
      q_BTNH: queries; N is a multiple of K.
      k_BSKH, v_BSKH: keys and values, or the pages in which they lie; `kernels` are not asked for pages.
      visibility: which keys each query sees. The output of a query that sees no key has no meaning.
      scoring: how scores are computed from queries and keys.
      bias: a bias added to scores; its arrays have gradients.
      sink_N: for each head, a score that takes part in the softmax and has no value, so that a head may attend to
        nothing (OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card", section 2; Xiao et al. 2024, section 3.3).
      dropout: the share of weights that is dropped if there is a dropout key.
      dropout_key: a random key in training, None in evaluation. All kernels drop the same weights, on every mesh.
      layout: the layout of all arrays; on a mesh a kernel gets the arrays of one device (model/kernels/mesh/shards.py).
      platform: the platform that will run the kernel; None for that of the layout.
      kernels: the kernels to choose from.

    Returns:
      (B, T, N, H), in the dtype of v; H is the head width of v, which may differ from that of queries and keys.

    Raises:
      UserError: if none of the kernels takes the request.
    """
    if dropout_key is None or dropout == 0:
        dropout, dropout_key = 0.0, None

    def run(arrays: Arrays, kernels: tuple[Kernel, ...] = kernels) -> jax.Array:
        q_BTNH, k_BSKH, v_BSKH = arrays.q_BTNH, arrays.k_BSKH, arrays.v_BSKH
        request = new_request(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            arrays.visibility,
            scoring,
            bias=arrays.bias,
            has_sinks=sink_N is not None,
            dropout=dropout,
            platform=platform or layout.platform,
        )
        choice = choose(request, kernels)
        record_choice(request.use, choice)
        kernel: Kernel = choice.kernel
        return kernel.attend(request, q_BTNH, k_BSKH, v_BSKH, arrays.sink_N, arrays.dropout_keys)

    if isinstance(k_BSKH, PagedArray):
        pages = FOR_PAGES if layout.num_devices == 1 else FOR_PAGES_ON_MESHES
        return run(Arrays(q_BTNH, k_BSKH, v_BSKH, visibility, bias, sink_N), pages)
    keys_BN2 = None if dropout_key is None else keys_of_heads(dropout_key, q_BTNH.shape[0], q_BTNH.shape[2])
    whole = Arrays(q_BTNH, k_BSKH, v_BSKH, visibility, bias, sink_N, keys_BN2)
    names = [kernel.name for kernel in kernels]
    y_BTNH = attend_on_shards(layout, run, whole, scoring, dropout, names)
    if y_BTNH is not None:
        return y_BTNH
    allowed = tuple(kernel for kernel in FOR_COMPILERS if kernel.name in names)
    if not allowed:
        raise UserError("no attention kernel: those of model.kernels.attention do not take arrays that XLA splits")
    return run(whole, allowed)


def new_request(
    q_BTNH: Any,
    k_BSKH: Any,
    v_BSKH: Any,
    visibility: Visibility,
    scoring: Scoring,
    *,
    bias: Bias | None = None,
    has_sinks: bool = False,
    dropout: float = 0.0,
    platform: str | None = None,
) -> Request:
    """Returns the request of arrays, or of their shapes, for `choose`; `platform` is JAX's default backend if None."""
    q, k, v = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q_BTNH, k_BSKH, v_BSKH))
    return Request(
        q=q,
        k=k,
        v=v,
        visibility=visibility,
        scoring=scoring,
        bias=bias,
        has_sinks=has_sinks,
        dropout=dropout,
        platform=platform or jax.default_backend(),
        compute_capability=compute_capability(),
        pages=k_BSKH.form if isinstance(k_BSKH, PagedArray) else None,
    )
