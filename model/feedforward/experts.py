"""Mixture of experts: many feed-forward layers, of which each token uses a few.

Shazeer et al. 2017, "Outrageously Large Neural Networks", equation 1. Shared experts: Dai et al. 2024, "DeepSeekMoE",
equation 9; with a gate, Qwen Team 2024, "Qwen1.5-MoE". routing.py chooses the experts of a token, dispatch.py brings
tokens to experts, and balance.py balances the experts' loads.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from model.context import Context
from model.feedforward.balance import BalanceLoss, LoadBias, record_balance
from model.feedforward.dispatch import Capacity, Dropless, Product, dispatch_dropless, dispatch_with_capacity
from model.feedforward.mlp import MLP, FeedForward, Gated, hidden_activation
from model.feedforward.placement import EXPERT_AXES
from model.feedforward.routing import Routing, SigmoidRouter, SoftmaxRouter, route
from model.interfaces import FeedForwardOption
from model.layout import Axes, Layout
from model.norms import LayerNorm, Norm, RMSNorm
from model.parameters.maker import ParameterMaker
from model.parameters.projections import project


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """An expert that every token uses; n shared experts of one width equal one expert of n times the width.

    Attributes:
      ffn: the expert.
      gate: whether its output is multiplied by the sigmoid of a learned dot product with the token.
    """

    ffn: MLP | Gated
    gate: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts(FeedForwardOption):
    """Feed-forward layers (experts), of which a router chooses some for each token.

    Attributes:
      num_experts: E.
      top_k: R, the number of experts of a token.
      expert: the option of each expert; its `width` is the width of one expert.
      router: how experts are chosen and weighted.
      apply_weights_to: whether weights multiply an expert's output (most models) or its input (Llama 4).
      dispatch: how tokens reach their experts, and whether some tokens are dropped.
      shared: an expert that all tokens use, added to the others, or None.
      balance_loss: a loss that makes the experts' loads equal, or None.
      router_z_loss: the coefficient of the mean squared logsumexp of the router's logits (Zoph et al. 2022, "ST-MoE",
        equation 5).
      load_bias: a bias that moves the choice towards experts with little load, or None.
      branch_norms: the kind of norms on the input and on the output of the chosen experts together, and on those of the
        shared expert, or None for no such norms (Gemma 4). The router and the shared gate read the layer's input.
    """

    num_experts: int
    top_k: int
    expert: MLP | Gated
    router: SoftmaxRouter | SigmoidRouter = SoftmaxRouter()
    apply_weights_to: Literal["output", "input"] = "output"
    dispatch: Dropless | Capacity = Dropless()
    shared: Shared | None = None
    balance_loss: BalanceLoss | None = None
    router_z_loss: float = 0.0
    load_bias: LoadBias | None = None
    branch_norms: LayerNorm | RMSNorm | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        if self.num_experts < 1:
            yield "num_experts", f"must be at least 1, got {self.num_experts}"
        elif not 1 <= self.top_k <= self.num_experts:
            yield "top_k", f"must be at least 1 and at most num_experts={self.num_experts}, got {self.top_k}"
        elif self.router.groups is not None:
            for name, message in self.router.groups.problems_with(self.num_experts, self.top_k):
                yield f"router.groups.{name}", message
        if self.router_z_loss < 0:
            yield "router_z_loss", f"must be 0 or more, got {self.router_z_loss}"

    def warnings(self) -> Iterator[tuple[str, str]]:
        """Yields fields with which training is pointless: a published model may have them all the same."""
        if self.top_k == 1 and self.router.renormalize:
            yield (
                "router.renormalize",
                "with top_k=1 each weight is 1 whatever its score, so cross-entropy does not train the router; "
                "False keeps the scores as weights",
            )
        for name in ("balance_loss", "load_bias"):
            if self.top_k == self.num_experts and getattr(self, name) is not None:
                yield name, f"has no effect: every token uses all {self.num_experts} experts"

    def build(self, width: int, reductions: str, make: ParameterMaker) -> "MixtureOfExperts":
        """Builds the module of one layer."""
        return MixtureOfExperts(self, width, reductions, make)

    def cost(self, width: int, length: int) -> int:
        """Counts the operations of a forward pass: the router, each token's experts and the shared expert."""
        shared = self.shared.ffn.cost(width, length) + 2 * length * width * self.shared.gate if self.shared else 0
        return 2 * length * width * self.num_experts + self.top_k * self.expert.cost(width, length) + shared

    def inactive_parameters(self, shapes: Mapping[str, Any]) -> int:
        """Counts the parameters of experts that a token does not use."""
        names = (f"{name}{bias}" for name in ("gate", "up", "down") for bias in ("", "_bias"))
        expert_parameters = sum(math.prod(shapes[name].shape) for name in names if name in shapes)
        return expert_parameters // self.num_experts * (self.num_experts - self.top_k)

    def written_like(self, other: Any) -> Self:
        """Returns the same experts with the load balancing of `other`."""
        if not isinstance(other, Experts):
            return self
        fields: dict[str, Any] = {"balance_loss": other.balance_loss, "router_z_loss": other.router_z_loss}
        if self.load_bias is not None and other.load_bias is not None:
            fields["load_bias"] = other.load_bias
        return dataclasses.replace(self, **fields)


class MixtureOfExperts(nnx.Module):
    """The module of `Experts`."""

    def __init__(self, option: Experts, width: int, reductions: str, make: ParameterMaker) -> None:
        """Args: the option, the model width D, the reduction dtype, the maker."""

        def norm(kind: LayerNorm | RMSNorm | None, reductions: str = reductions) -> Norm | None:
            return None if kind is None else Norm(kind, (width,), ("embed",), make, reductions)

        self.option = option
        expert, count, ffn_width = option.expert, option.num_experts, option.expert.width
        gated, axes = isinstance(expert, Gated), EXPERT_AXES
        self.router = make.matrix("router", (width, count), ("embed", "expert"))
        self.router_bias = make.zeros((count,), ("expert",), "router_bias") if option.router.bias else None
        self.load_bias = make.zeros((count,), ("expert",), "load_bias") if option.load_bias else None
        self.gate = make.matrix("projection", (count, width, ffn_width), axes["gate"], blocks=1) if gated else None
        self.up = make.matrix("value", (count, width, ffn_width), axes["up"], blocks=1)
        self.down = make.matrix("residual", (count, ffn_width, width), axes["down"], blocks=1)
        self.gate_bias = make.zeros((count, ffn_width), axes["gate_bias"]) if gated and expert.bias else None
        self.up_bias = make.zeros((count, ffn_width), axes["up_bias"]) if expert.bias else None
        self.down_bias = make.zeros((count, width), axes["down_bias"]) if expert.bias else None
        shared = option.shared
        self.shared = FeedForward(shared.ffn, width, make) if shared else None
        gate = make.matrix("projection", (width,), ("embed",)) if shared and shared.gate else None
        self.shared_gate = gate
        self.router_norm = norm(option.router.norm, "float32")
        self.expert_scale = make.constant("gain", 1.0, (count,), ("expert",)) if option.router.expert_scale else None
        self.input_norm, self.output_norm = norm(option.branch_norms), norm(option.branch_norms)
        self.shared_input_norm = norm(option.branch_norms if shared else None)
        self.shared_output_norm = norm(option.branch_norms if shared else None)

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Maps (B, T, D) to (B, T, D)."""
        option = self.option
        logits_BTE = context.tap("router_logits", self._router_logits(x_BTD, context.layout))
        routing = self._route(logits_BTE, context.layout)
        routing = dataclasses.replace(
            routing,
            chosen_BTR=context.tap("experts_chosen", routing.chosen_BTR),
            weight_BTR=context.tap("expert_weights", routing.weight_BTR),
        )
        chosen_BTR, weight_BTR = routing.chosen_BTR, routing.weight_BTR.astype(x_BTD.dtype)
        read_BTD = x_BTD if self.input_norm is None else self.input_norm(x_BTD)
        on_input = option.apply_weights_to == "input"
        weights = (weight_BTR, None) if on_input else (None, weight_BTR)
        params = {name: p[...] for name in EXPERT_AXES if (p := getattr(self, name)) is not None}
        inputs = (read_BTD, chosen_BTR, *weights, params, self._apply_experts, context.layout)
        dropped_BTR = None
        if isinstance(option.dispatch, Capacity):
            y_BTD, dropped_BTR = dispatch_with_capacity(option.dispatch, *inputs)
        else:
            dispatch = functools.partial(dispatch_dropless, kernels=context.kernels.named("experts"))
            y_BTD = dispatch(*inputs)
        record_balance(context, routing, logits_BTE, dropped_BTR, option.balance_loss, option.router_z_loss)
        y_BTD = context.shard(y_BTD, ("batch", "ffn_sequence", "embed"))
        y_BTD = y_BTD if self.output_norm is None else self.output_norm(y_BTD)
        return y_BTD if self.shared is None else y_BTD + self._shared_output(x_BTD, context)

    def _router_logits(self, x_BTD: jax.Array, layout: Layout) -> jax.Array:
        """Returns the router's logits in full float32 on every device, because near ties decide where a token goes."""
        x_BTD = x_BTD.astype(jnp.float32)
        x_BTD = x_BTD if self.router_norm is None else self.router_norm(x_BTD)
        product = functools.partial(jnp.einsum, "BTD,DE->BTE", precision="highest")
        tokens = self._token_axes(x_BTD, layout)
        logits_BTE = layout.shard_map(product, (tokens, (None, None)), tokens)(x_BTD, self.router[...])
        logits_BTE = logits_BTE if self.router_bias is None else logits_BTE + self.router_bias[...]
        factor = self.option.router.logit_scale
        return logits_BTE if factor == 1 else logits_BTE * factor

    def _route(self, logits_BTE: jax.Array, layout: Layout) -> Routing:
        """Routes each token on the device that has it; a partitioner might gather the logits of all to choose."""
        load_bias_E, expert_scale_E = (None if p is None else p[...] for p in (self.load_bias, self.expert_scale))

        def on_device(
            logits_BTE: jax.Array, load_bias_E: jax.Array | None, expert_scale_E: jax.Array | None
        ) -> tuple[jax.Array, ...]:
            routing = route(self.option.router, logits_BTE, self.option.top_k, load_bias_E, expert_scale_E)
            return routing.probabilities_BTE, routing.chosen_BTR, routing.weight_BTR

        tokens = self._token_axes(logits_BTE, layout)
        shard_mapped = layout.shard_map(on_device, (tokens, (None,), (None,)), (tokens,) * 3)
        return Routing(*shard_mapped(logits_BTE, load_bias_E, expert_scale_E))

    def _token_axes(self, x_BTX: jax.Array, layout: Layout) -> Axes:
        """Returns the axes of an array with a vector for each token, split by tokens."""
        return (*layout.axis_shardings(x_BTX.shape[:2], ("batch", "ffn_sequence")), None)

    def _apply_experts(self, rows: jax.Array, product: Product) -> jax.Array:
        """Applies to each row its expert."""
        up = product(rows, "up")
        gate = None if self.gate is None else product(rows, "gate")
        return product(hidden_activation(self.option.expert, up, gate), "down")

    def _shared_output(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        """Returns the output of the shared expert, after its norm and times its gate, where it has them."""
        assert self.shared is not None
        y_BTD = self.shared(x_BTD if self.shared_input_norm is None else self.shared_input_norm(x_BTD), context)
        y_BTD = y_BTD if self.shared_output_norm is None else self.shared_output_norm(y_BTD)
        if self.shared_gate is None:
            return y_BTD
        return y_BTD * jax.nn.sigmoid(project(x_BTD, self.shared_gate, context.layout))[..., None]
