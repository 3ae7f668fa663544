"""Pipeline parallelism: consecutive layers on different devices, through which micro-batches flow.

All stages run at once, as one function mapped over an axis of stages that the mesh splits; between two ticks every
stage sends its result to the next one. With one chunk of layers a stage this is the schedule of Huang et al. 2019,
"GPipe"; with more it is the interleaved schedule of Narayanan et al. 2021, "Efficient Large-Scale Language Model
Training on GPU Clusters Using Megatron-LM", section 2.2: a micro-batch passes all stages once for each chunk, and the
bubble is (S - 1) / (V M + S - 1) of the ticks. S stages, V chunks a stage, M micro-batches; chunk c is in stage c % S.
Differentiation runs all ticks backward after all forward: every stage keeps V M + S - 1 inputs of a chunk (and of its
layers, as `ModelConfig.remat` says), so that all M micro-batches are alive. Gradients of micro-batches add up in the
format of the parameters.

Outside of the layers each stage holds M / S of the micro-batches. They move towards stage 0 one stage at a time as it
reads them, and results move away from the last stage likewise: no stage ever holds all of them.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.attention.heads import divisors
from model.config import ModelConfig
from model.context import Context
from model.errors import UserError
from model.layers import by_stack, group_layers
from model.layout import Pipeline
from model.parameters.maker import specs_of
from model.stack import AuxOutputs, LayerCaches, empty_cross_layer_arrays, pattern_body
from model.stages.micro_batches import by_micro_batch, join_rows, split_rows
from model.stages.parameters import chunks_of_stages
from model.stages.schedule import send_back, send_on, ticks_of_micro_batches, work_of
from model.taps.request import Taps
from model.token_positions import inputs_of_rows


def problems_of_stages(config: ModelConfig, stages: int, chunks: int) -> Iterator[tuple[str, str]]:
    """Yields the field and the reason for each way in which a model cannot run in stages."""
    groups = group_layers(config.layers)
    if len(groups) > 1:
        listed = ", ".join(f"{group.repeats} x {len(group.pattern)}" for group in groups)
        yield (
            "mesh.stage",
            f"{stages} stages need layers that repeat one pattern, and this model has {len(groups)} groups "
            f"(repeats x layers: {listed}); use mesh.fsdp instead",
        )
    elif (repeats := groups[0].repeats) % (stages * chunks):
        what = "layers" if len(groups[0].pattern) == 1 else f"repeats of {len(groups[0].pattern)} layers"
        parts = f"{stages} stages" if chunks == 1 else f"{stages} stages x {chunks} chunks"
        fits = ", ".join(map(str, divisors(repeats)))
        yield "mesh.stage", f"{parts} do not divide the {repeats} {what}; {fits} in all would"
    if not config.scan_layers:
        yield "model.scan_layers", f"{stages} stages run layers in a scan; set it True"
    if config.multi_token is not None:
        yield (
            "model.multi_token",
            "its modules follow the layers and do not run in stages; set it None, or mesh.stage=1",
        )
    if config.per_layer_embedding is not None:
        yield "model.per_layer_embedding", "its vectors would be sent to every stage; set it None, or mesh.stage=1"


def run_layers_in_stages(
    config: ModelConfig,
    blocks: nnx.Module,
    x_BTD: jax.Array,
    context: Context,
    caches: LayerCaches | None,
    per_layer_LBTP: jax.Array | None = None,
) -> tuple[jax.Array, None, AuxOutputs]:
    """Runs all layers in the stages of `context.layout.pipeline`; see `model.stack.run_layers`.

    Raises UserError for a model that cannot run in stages, for a cache, for edits, and for taps of some layers.
    """
    pipeline = context.layout.pipeline
    assert pipeline is not None
    assert per_layer_LBTP is None or config.per_layer_embedding is not None
    _refuse(config, pipeline, caches, context.taps)
    run = _Stages(config, pipeline, context, by_stack(blocks, group_layers(config.layers)))
    stream, outputs = run(config.residual.enter(x_BTD))
    taps: dict[str, jax.Array] = {}
    losses: dict[str, jax.Array] = {}
    measurements: dict[str, dict[str, jax.Array]] = {}
    names = {name for kept, _, _ in outputs for name in kept}
    for name in names:  # layer by layer, as the layers of a pattern alternate
        by_index = [kept[name] for kept, _, _ in outputs if name in kept]
        taps[name] = jnp.stack(by_index, axis=1).reshape(-1, *by_index[0].shape[1:])
    for name, (_, layer_losses, layer_measurements) in zip(run.group.stack_names, outputs, strict=True):
        losses |= {loss: losses.get(loss, 0.0) + jnp.sum(each) for loss, each in layer_losses.items()}
        measurements |= {name: layer_measurements} if layer_measurements else {}
    return config.residual.leave(stream), None, AuxOutputs(taps, losses, measurements, {})


def _refuse(config: ModelConfig, pipeline: Pipeline, caches: LayerCaches | None, taps: Taps) -> None:
    for path, message in problems_of_stages(config, pipeline.stages, pipeline.chunks):
        raise UserError(f"{path}: {message}")
    if caches is not None:
        raise UserError(f"mesh.stage={pipeline.stages}: decoding does not run in stages; give a --mesh without stage")
    if taps.edit:
        raise UserError(f"mesh.stage={pipeline.stages}: taps are not edited in stages; use a mesh without stage")
    if some := [tap.name for tap in taps.keep if not isinstance(tap, str) and tap.layers is not None]:
        raise UserError(f"tap {some[0]!r}: with mesh.stage={pipeline.stages} it is kept of all layers or of none")


class _Stages:
    """The stages of one pass: their parameters, and the ticks."""

    def __init__(self, config: ModelConfig, pipeline: Pipeline, context: Context, stacks: Any) -> None:
        self.config, self.pipeline, self.context = config, pipeline, context
        (self.group,) = group_layers(config.layers)
        graphs = [nnx.split(stacks[name]) for name in self.group.stack_names]
        self.modules = [(graph, specs_of(state)) for graph, state in graphs]
        self.layout, self.within = context.layout, context.layout.within_stage()
        self.params = [
            jax.tree.map(
                functools.partial(chunks_of_stages, layout=self.layout), nnx.to_pure_dict(state), _axes_of(specs)
            )
            for (_, state), (_, specs) in zip(graphs, self.modules, strict=True)
        ]
        assert context.rows is not None
        self.rows_M = jax.tree.map(functools.partial(by_micro_batch, layout=self.layout), context.rows)

    def __call__(self, stream: jax.Array) -> tuple[jax.Array, Any]:
        """Returns the stream after the last layer, and the outputs of each layer of the pattern, layers first."""
        pipeline = self.pipeline
        inputs = self._constrain(split_rows(stream, pipeline), 2)
        # Real rows, not zeros: the bubbles compute finite numbers, which reach no result.
        start = self._fresh(inputs[:, 0])
        carry = (start, inputs, jnp.zeros_like(inputs))
        (_, _, results), outputs = jax.lax.scan(self._tick, carry, jnp.arange(pipeline.ticks))
        ticks = ticks_of_micro_batches(pipeline)
        collected = [
            (
                {name: self._tap(x, ticks) for name, x in kept.items()},
                {name: _sum_over_micro_batches(x, ticks) for name, x in losses.items()},
                {name: _sum_over_micro_batches(x, ticks) for name, x in measurements.items()},
            )
            for kept, losses, measurements in outputs
        ]
        return join_rows(self._constrain(results, 2), pipeline), collected

    def _fresh(self, stream: Any) -> Any:
        """Returns the carry of layers before the first of them, for the stream of every stage."""
        enter = lambda x: (x, empty_cross_layer_arrays(self.config, x, self._context(None, None)))  # noqa: E731
        return self._over_stages(enter)(stream)

    def _over_stages(self, function: Any) -> Any:
        names = self.pipeline.stage.mesh_axes
        return jax.vmap(function, spmd_axis_name=names if len(names) > 1 else names[0])

    def _constrain(self, x: jax.Array, rows_axis: int) -> jax.Array:
        """Returns an array of streams, split over stages and, from `rows_axis` on, as a stream is."""
        inner: tuple[Any, ...] = ("batch", "sequence", *(None,) * (x.ndim - rows_axis - 3), "embed")
        return self.within.constrain(x, (self.pipeline.stage, *(None,) * (rows_axis - 1), *inner))

    def _tick(self, carry: Any, tick: jax.Array) -> tuple[Any, Any]:
        """Every stage takes the result of the stage before it, or a new micro-batch, and runs one chunk of layers."""
        before, inputs, results = carry
        pipeline, stage_S = self.pipeline, jnp.arange(self.pipeline.stages)
        number_S = jnp.clip(tick - stage_S, 0, pipeline.micro_batches * pipeline.chunks - 1)
        micro_batch_S, chunk_S = work_of(number_S, pipeline)
        entering, inputs = self._enter(tick, inputs)
        is_new_S = (stage_S == 0) & (chunk_S == 0)
        select = lambda new, old: jnp.where(_beside(is_new_S, new), new, old)  # noqa: E731
        state = jax.tree.map(select, self._fresh(entering), jax.tree.map(send_on, before))
        rows_S = jax.tree.map(lambda x: x[micro_batch_S], self.rows_M)
        keys = self.context.dropout_key
        keys_S = None if keys is None else keys[micro_batch_S]
        (stream, shared), outputs = self._over_stages(self._run_chunk)(
            state, self.params, stage_S, chunk_S, rows_S, keys_S
        )
        stream = self._constrain(stream, 1)
        return ((stream, shared), inputs, self._leave(tick, results, stream)), outputs

    def _run_chunk(
        self, state: Any, params: Any, stage: jax.Array, chunk: jax.Array, rows: Any, key: jax.Array | None
    ) -> Any:
        """Runs one chunk of one stage on one micro-batch."""
        own = jax.tree.map(lambda p: jax.lax.dynamic_index_in_dim(p, chunk, keepdims=False), params)
        each, size = len(jax.tree.leaves(own)[0]), len(self.group.pattern)
        first = self.group.start + (chunk * self.pipeline.stages + stage) * each * size
        numbers = first + jnp.arange(each * size, dtype=jnp.int32).reshape(each, size)
        body = pattern_body(self.config, self.group, self.modules, self._context(rows, key), scanned=True)
        state, (_, outputs) = jax.lax.scan(body, state, (own, None, numbers))
        return state, outputs

    def _context(self, rows: Any, key: jax.Array | None) -> Context:
        """Returns the context of one stage and micro-batch."""
        visibility = self.context.visibility
        consecutive = visibility is not None and visibility.consecutive_positions
        own = {} if rows is None else inputs_of_rows(self.config, rows, consecutive_positions=consecutive)
        return dataclasses.replace(self.context, **own, layout=self.within, dropout_key=key)

    def _enter(self, tick: jax.Array, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the next micro-batch, for stage 0, and the others, of which one moves on in every stage."""
        period = self.pipeline.stages * self.pipeline.chunks
        number = tick // period * self.pipeline.stages + tick % period
        slot = number % inputs.shape[1]
        entering = jax.lax.dynamic_index_in_dim(inputs, slot, axis=1, keepdims=False)
        move = lambda x: jax.lax.dynamic_update_index_in_dim(x, send_back(entering), slot, axis=1)  # noqa: E731
        return entering, self._when(tick % period < self.pipeline.stages, move, inputs)

    def _leave(self, tick: jax.Array, results: jax.Array, stream: jax.Array) -> jax.Array:
        """Returns the results with that of the last stage; those before it move on by one stage."""
        stages, chunks = self.pipeline.stages, self.pipeline.chunks
        number = tick - (stages - 1)  # of the last stage
        within = number % (stages * chunks) - stages * (chunks - 1)
        slot = (number // (stages * chunks) * stages + within) % results.shape[1]

        def move(results: jax.Array) -> jax.Array:
            moved = send_back(jax.lax.dynamic_index_in_dim(results, slot, axis=1, keepdims=False))
            is_last = _beside(jnp.arange(stages) == stages - 1, moved)
            return jax.lax.dynamic_update_index_in_dim(results, jnp.where(is_last, stream, moved), slot, axis=1)

        return self._when(within >= 0, move, results)

    def _when(self, condition: jax.Array, move: Any, x: jax.Array) -> jax.Array:
        """Returns `move(x)` in ticks in which a micro-batch enters or leaves: all of them with one chunk a stage."""
        if self.pipeline.chunks == 1:
            return self._constrain(move(x), 2)
        return self._constrain(jax.lax.cond(condition, move, lambda x: x, x), 2)

    def _tap(self, x: jax.Array, ticks_SVM: np.ndarray) -> jax.Array:
        """Returns a tap (ticks, S, K, rows, ...) of every tick as one of every layer (L, B, ...)."""
        x_SVMK = _of_micro_batches(x, ticks_SVM)
        x_VSKM = x_SVMK.transpose(1, 0, 3, 2, *range(4, x_SVMK.ndim))
        by_layer = x_VSKM.reshape(-1, *x_VSKM.shape[3:])  # (L, M, rows, ...)
        split = by_layer.reshape(len(by_layer), self.pipeline.stages, -1, *by_layer.shape[2:])
        return jax.vmap(functools.partial(join_rows, pipeline=self.pipeline))(split)


def _of_micro_batches(x: jax.Array, ticks_SVM: np.ndarray) -> jax.Array:
    """Returns an output (ticks, S, ...) of all ticks without the bubbles, by chunk and micro-batch (S, V, M, ...)."""
    return jax.vmap(lambda x, ticks: x[ticks], in_axes=(1, 0))(x, jnp.asarray(ticks_SVM))


def _sum_over_micro_batches(x: jax.Array, ticks_SVM: np.ndarray) -> jax.Array:
    """Returns an output (ticks, S, K, ...) summed over micro-batches, layers first (L, ...)."""
    x_SVK = jnp.sum(_of_micro_batches(x, ticks_SVM), axis=2)
    return x_SVK.swapaxes(0, 1).reshape(-1, *x.shape[3:])


def _beside(mask_S: jax.Array, x: jax.Array) -> jax.Array:
    return mask_S.reshape(-1, *(1,) * (x.ndim - 1))


def _axes_of(specs: Any) -> Any:
    """Returns the logical axes of parameters, a leaf for each."""
    return jax.tree.map(lambda spec: spec.axes, specs)
