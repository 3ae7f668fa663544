"""The parameters and the batch that two configs share, whatever their meshes, formats and groups of layers."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from model.dropout import Dropout
from model.errors import UserError
from model.layers import stacked_layers
from model.options.tree import check
from model.parameters.names import flatten, unflatten
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params, init, specs
from train.data.config import Data
from train.experiment import Experiment
from train.lab.by_layer import by_layer, plain_name
from train.optimizers.frozen import Frozen
from train.parallel.mesh import make_mesh, num_devices
from train.parallel.mesh_choice import model_shardings
from train.parallel.table import layout_of

OTHER_NOISE = 0.02
_PADDING = 8  # with several documents, this part of the last row is padding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Options of a comparison.

    Attributes:
      batch_size: rows; None for the fewest, at least 2, that both meshes divide.
      sequence_length: tokens of a row; None for the shorter data.sequence_length.
      documents: in each row; with more than one, the last row also ends with padding.
      seed: of parameters and tokens.
      noise: the deviation of the noise that is added to every matrix, times 1 / sqrt(number of inputs). With 1 a matrix
        keeps the size of its input, as in a trained model. Initial values alone hide mistakes: a matrix that begins at
        0 hides its layer, and small queries and keys hide the positions. Other parameters get `OTHER_NOISE`.
    """

    batch_size: int | None = None
    sequence_length: int | None = None
    documents: int = 1
    seed: int = 0
    noise: float = 1.0


def prepare_experiments(a: Experiment, b: Experiment, inputs: Inputs) -> tuple[Experiment, Experiment]:
    """Both experiments with one shape of batch, without dropout and frozen parameters.

    Raises UserError when one of them does not fit this shape.
    """
    length = inputs.sequence_length or min(a.data.sequence_length, b.data.sequence_length)
    rows = inputs.batch_size
    if rows is None:
        ways = math.lcm(*(_rows_at_least(experiment) for experiment in (a, b)))
        rows = ways * math.ceil(2 / ways)
    if not 1 <= inputs.documents <= length // 2:
        raise UserError(f"{inputs.documents} documents do not fit a row of {length} tokens; give 1 to {length // 2}")

    def prepared(experiment: Experiment) -> Experiment:
        given = experiment.data
        if not isinstance(given, Data):
            raise UserError(f"data: {given.no_text}, with a length of their own; set data=Data()")
        data = dataclasses.replace(given, batch_size=rows, sequence_length=length)
        model = dataclasses.replace(experiment.model, dropout=Dropout())
        training = dataclasses.replace(experiment.training, frozen=Frozen())
        changed = dataclasses.replace(experiment, data=data, model=model, training=training)
        check(changed)
        return changed

    return prepared(a), prepared(b)


def mesh_of(experiment: Experiment) -> jax.sharding.Mesh:
    """The mesh of an experiment; one with a given size of all axes may leave out some of the devices here."""
    known = experiment.mesh.data is not None
    size = num_devices(experiment.mesh) if known else jax.device_count()
    return make_mesh(experiment.mesh, jax.devices()[:size] if size < jax.device_count() else None)


def _rows_at_least(experiment: Experiment) -> int:
    """The number of rows that the mesh and the micro-batches of an experiment divide."""
    layout = layout_of(mesh_of(experiment), experiment.sharding)
    stages = layout.ways("batch") // layout.within_stage().ways("batch")
    return experiment.training.gradient_accumulation * layout.ways("batch") // stages


def layer_shapes(model: ModelConfig) -> dict[str, dict[int | None, tuple[int, ...]]]:
    """The shape of each parameter in each layer, by `plain_name` and layer."""
    found: dict[str, dict[int | None, tuple[int, ...]]] = {}
    known, shapes = specs_by_name(specs(model)), flatten(abstract_params(model))
    for part in by_layer(model, known, {name: _Rows(x.shape) for name, x in shapes.items()}):
        found.setdefault(part.plain_name, {})[part.layer] = part.values.shape
    return found


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The shape of an array, whose items have the shape without the first axis; makes no array."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> "_Rows":
        if index >= self.shape[0]:
            raise IndexError(index)
        return _Rows(self.shape[1:])


def check_same_parameters(a: ModelConfig, b: ModelConfig) -> None:
    """Raises UserError that names the first parameter which only one model has, or which has another shape."""
    shapes_a, shapes_b = layer_shapes(a), layer_shapes(b)
    for name in dict.fromkeys([*shapes_a, *shapes_b]):
        one, other = shapes_a.get(name, {}), shapes_b.get(name, {})
        for layer in dict.fromkeys([*one, *other]):
            if one.get(layer) != other.get(layer):
                where = "" if layer is None else f" of layer {layer}"
                words = [f"has the shape {s[layer]}" if layer in s else "does not exist" for s in (one, other)]
                raise UserError(
                    f"the models have different parameters, so they cannot compute the same: {name}{where} {words[0]} "
                    f"in a, and {words[1]} in b; give two configs of one architecture"
                )


def shared_params(a: Experiment, b: Experiment, inputs: Inputs) -> tuple[Any, Any]:
    """The same parameters for both, on their meshes and in their formats: values that both formats have exactly."""
    shapes_a, shapes_b = flatten(abstract_params(a.model)), flatten(abstract_params(b.model))
    known_a, known_b = specs_by_name(specs(a.model)), specs_by_name(specs(b.model))
    formats_b = {plain_name(b.model, name): x.dtype for name, x in shapes_b.items()}

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.fold_in(key, 1), len(shapes_a))
        drawn = {}
        for noise_key, (name, x) in zip(keys, flatten(init(a.model, key)).items(), strict=True):
            num_inputs = math.prod(x.shape[axis] for axis in known_a[name].inputs)
            deviation = inputs.noise / math.sqrt(num_inputs) if known_a[name].is_hidden_matrix else OTHER_NOISE
            noisy = x.astype(jnp.float32) + deviation * jax.random.normal(noise_key, x.shape)
            drawn[name] = noisy.astype(x.dtype).astype(formats_b[plain_name(a.model, name)]).astype(x.dtype)
        return drawn

    drawn = jax.jit(draw)(jax.random.key(inputs.seed))
    on_a = jax.device_put(unflatten(abstract_params(a.model), drawn), _placements(a))
    parts: dict[tuple[str, int | None], Any] = {
        (part.plain_name, part.layer): part.values for part in by_layer(a.model, known_a, jax.device_get(drawn))
    }
    arrays = {name: _from_parts(b.model, name, x, known_b[name].axes, parts) for name, x in shapes_b.items()}
    return on_a, jax.device_put(unflatten(abstract_params(b.model), arrays), _placements(b))


def _placements(experiment: Experiment) -> Any:
    return model_shardings(experiment.model, mesh_of(experiment), experiment.sharding)


def _from_parts(
    model: ModelConfig,
    name: str,
    like: jax.ShapeDtypeStruct,
    axes: tuple[str | None, ...],
    parts: Mapping[tuple[str, int | None], Any],
) -> np.ndarray:
    """One parameter of a model, stacked as the model stacks it."""
    plain = plain_name(model, name)
    if axes[:1] != ("layer",):
        return np.asarray(parts[plain, None]).astype(like.dtype)
    return np.stack([parts[plain, layer] for layer in stacked_layers(model.layers, name, like.shape[0])]).astype(
        like.dtype
    )


def random_batch(experiment: Experiment, inputs: Inputs) -> dict[str, np.ndarray]:
    """Random tokens: rows of `documents` documents of random lengths, which do not see each other."""
    draw = np.random.default_rng(inputs.seed)
    shape = experiment.data.batch_size, experiment.data.sequence_length
    tokens_BT = draw.integers(0, experiment.model.vocab_size, (shape[0], shape[1] + 1), np.int32)
    segments_BT, positions_BT = np.ones(shape, np.int32), np.zeros(shape, np.int32)
    weights_BT = np.ones(shape, np.float32)
    for row in range(shape[0]):
        starts = np.sort(draw.choice(np.arange(1, shape[1]), inputs.documents - 1, replace=False))
        bounds = [0, *starts.tolist(), shape[1]]
        for number, (start, stop) in enumerate(itertools.pairwise(bounds), start=1):
            segments_BT[row, start:stop] = number
            positions_BT[row, start:stop] = np.arange(stop - start)
            if stop < shape[1]:
                weights_BT[row, stop - 1] = 0
    if inputs.documents > 1:
        end = shape[1] - shape[1] // _PADDING
        segments_BT[-1, end:] = positions_BT[-1, end:] = 0
        weights_BT[-1, end - 1 :] = 0
    return {
        "tokens": tokens_BT[:, :-1],
        "targets": tokens_BT[:, 1:],
        "weights": weights_BT,
        "segment_ids": segments_BT,
        "positions": positions_BT,
    }
