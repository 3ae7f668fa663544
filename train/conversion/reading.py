"""Converts a Hugging Face folder to a run folder, tensor by tensor.

RUN/origin keeps the other contents of the folder: config.json and all files beside the weights, the headers of the
safetensors files, and the tensors that are not weights, so that the same files can be written again.
"""

import dataclasses
import fnmatch
import functools
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from model.config import ModelConfig
from model.errors import UserError
from model.families.family import Family
from model.families.weights import Tensor
from model.options.tree import check
from model.parameters.precision import Dtype, Precision
from model.parameters.specs import specs_by_name
from model.transformer import abstract_params, specs
from train import experiment as experiments
from train.checkpoints.store import CheckpointStore, flatten, unflatten
from train.conversion.folder import HuggingFaceFolder, StoredTensor, new_folder
from train.conversion.language_model import LanguageModelFolder, record_of
from train.conversion.record import RECORD, reading_notes
from train.conversion.tokenizer import tokenizer_option
from train.data.config import Data, HuggingFace, SentencePieceFile
from train.data.shards import dataset
from train.data.tokenizers.interface import make_tokenizer, save_tokenizer
from train.experiment import Experiment, Samples, Training
from train.files.files import write_json
from train.files.paths import AnyPath
from train.files.remote import local_copy
from train.optimizers import options as optimizers
from train.optimizers.guard import new_guard_state
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.mesh_choice import fsdp_mesh, model_shardings, requested_mesh
from train.parallel.table import Sharding
from train.run import parameter_table as parameters
from train.run.environment import record_session
from train.run.folder import ORIGIN
from train.run.loading import print_to_stderr
from train.schedules import Constant
from train.state import StateConfig, TrainState, build_optimizer, partition_params
from train.terminal.progress import Progress

BUFFERS, HEADER = "buffers.safetensors", ".header"
# The longest default window of launch.evaluate.
MAX_WINDOW = 2048


def read_published(
    source: AnyPath,
    run: pathlib.Path,
    *,
    parameter_dtype: Dtype | None = None,
    compute_dtype: Dtype | None = None,
    context_length: int | None = None,
    mesh: Mesh | None = None,
    accept: Sequence[str] = (),
) -> Experiment:
    """Writes a run folder whose checkpoint 0 holds published weights.

    Args:
      source: the Hugging Face folder, on this machine or in a store.
      run: the run folder, on this machine; it must not exist.
      parameter_dtype: the format of parameters; None for the smallest that holds the published ones exactly.
      compute_dtype: the format of matrix products; None for that of parameters.
      context_length: the largest number of tokens in a sequence; None for the value in config.json.
      mesh: the mesh of the devices here, recorded as the run's own; None for FSDP over all of them.
      accept: refused keys of config.json that are read as if it did not have them (rope_scaling.factor); RUN/origin
        records them.

    Raises:
      UserError: for a family, a mechanism or a tensor that cannot be mapped, and for a mesh that does not fit the
        devices or the model; then nothing is written.
    """
    folder = LanguageModelFolder(source)
    family, reading = folder.model.family, folder.model.read(accept)
    config = reading.config
    if context_length is not None:
        config = dataclasses.replace(config, context_length=context_length)
    names = published_names(family, config, folder)
    parameter_dtype = parameter_dtype or _smallest_dtype(config, family.tensors(config), names, folder)
    precision = Precision(parameters=parameter_dtype, compute=compute_dtype or parameter_dtype)
    config = dataclasses.replace(config, precision=precision)
    option = tokenizer_option(source, config.vocab_size)
    choice = fsdp_mesh(config, Sharding()) if mesh is None else requested_mesh(config, mesh, Sharding())
    if choice.note is not None:
        print_to_stderr(choice.note)
    record = record_of(folder, reading)
    for note in reading_notes(record, family.architecture):
        print_to_stderr(f"{source}: {note}")
    experiment = dataclasses.replace(_experiment(config, run, option), mesh=choice.option, sharding=choice.table)
    check(experiment)
    with new_folder(run) as part:
        _write_origin(folder, set(names.values()), part / ORIGIN)
        write_json(part / ORIGIN / RECORD, record)
        _write_tokenizer(option, part / "data")
        experiments.save(experiment, part)
        record_session(part)
        write_json(part / "parameters.json", parameters.as_json(experiment))
        state = _state(experiment, read_params(folder, family, config, names, experiment))
        failures: list[str] = []
        with CheckpointStore(part, experiment.checkpoints, failures.append) as store:
            store.save(experiment, state, 0, None)
            store.finish()
            if store.steps() != [0]:
                raise UserError("; ".join(failures) or f"the checkpoint could not be written to {part}")
    return experiment


def published_names(family: Family, config: ModelConfig, folder: HuggingFaceFolder) -> dict[str, str]:
    """Maps every tensor of the table that the files have to its name in the files.

    Raises UserError that lists every tensor that is missing, has another shape, or does not belong to the model.
    """
    table, problems = family.tensors(config), []
    names = family.file_names(config, folder.tensors)
    found = {name: stored for name, stored in names.items() if stored in folder.tensors}
    for name, tensor in table.items():
        stored = folder.tensors.get(names[name])
        if stored is None and not tensor.copy:
            problems.append(f"{names[name]} is missing, expected {_shape(tensor.shape)}")
        elif stored is not None and stored.shape != tensor.shape:
            problems.append(f"{stored.name} is {_shape(stored.shape)}, expected {_shape(tensor.shape)}")
        elif stored is not None and stored.dtype not in ("BF16", "F16", "F32"):
            problems.append(f"{stored.name} is {stored.dtype}, expected BF16, F16 or F32")
    for name in folder.tensors.keys() - found.values():
        if not any(fnmatch.fnmatch(name, pattern) for pattern in family.buffers):
            problems.append(f"{name} {_shape(folder.tensors[name].shape)} is no tensor of such a model")
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise UserError(
            f"{folder.path}: the tensors do not fit its config.json ({len(problems)} problems):\n  {listed}"
        )
    return found


def read_params(
    folder: HuggingFaceFolder, family: Family, config: ModelConfig, names: dict[str, str], experiment: Experiment
) -> dict[str, Any]:
    """The parameters on the experiment's mesh: the host holds one tensor at a time, a device its shards."""
    mesh = make_mesh(experiment.mesh)
    shapes = abstract_params(config)
    shardings = flatten(model_shardings(config, mesh, experiment.sharding))
    leaves = flatten(shapes)
    params: dict[str, jax.Array] = {}
    copies = []
    with Progress("reading tensors", len(names)) as progress:
        for done, (name, tensor) in enumerate(((n, t) for n, t in family.tensors(config).items() if n in names), 1):
            array = folder.read(folder.tensors[names[name]])
            if tensor.copy:
                copies.append((names[name], tensor, array))
                continue
            for part, array_part in zip(tensor.parts, tensor.split(array), strict=True):
                leaf, sharding = leaves[part.parameter], shardings[part.parameter]
                if part.parameter not in params:
                    params[part.parameter] = jnp.zeros(leaf.shape, leaf.dtype, device=sharding)
                write = _slice_writer(sharding)
                params[part.parameter] = write(
                    params[part.parameter], _to_shards(array_part, leaf.dtype, sharding), part.index
                )
            progress.update(done)
    for name, tensor, array in copies:
        (part,) = tensor.parts
        if not np.array_equal(tensor.join([np.asarray(params[part.parameter])]).astype(array.dtype), array):
            raise UserError(f"{name} is tied to another tensor by config.json, and differs from it")
    tree: dict[str, Any] = unflatten(shapes, params)
    return tree


def _to_shards(array: np.ndarray, dtype: Any, sharding: NamedSharding) -> jax.Array:
    """A slice of a stack on the devices; each device gets the part that it holds of the stack."""
    inner = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[len(sharding.spec) - array.ndim :]))
    return jax.make_array_from_callback(array.shape, inner, lambda index: np.asarray(array[index], dtype))


@functools.lru_cache(maxsize=64)
def _slice_writer(sharding: Any) -> Any:
    """A program that writes a slice into a stack of parameters, in place."""

    def write(stack: jax.Array, array: jax.Array, index: tuple[int, ...]) -> jax.Array:
        # For at[index].set XLA on CPUs copies a whole stack of bfloat16, to round its present values.
        start = (*index, *(0,) * array.ndim)
        return jax.lax.dynamic_update_slice(stack, array.reshape(*(1,) * len(index), *array.shape), start)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)


def _smallest_dtype(
    config: ModelConfig, table: dict[str, Tensor], names: dict[str, str], folder: HuggingFaceFolder
) -> Dtype:
    """The smallest format that holds every tensor exactly, except the tensors that are always float32."""
    known = specs_by_name(specs(config))
    weights = [name for name in names if known[table[name].parts[0].parameter].traits.storage_dtype == "parameters"]
    return "bfloat16" if {folder.tensors[names[name]].dtype for name in weights} == {"BF16"} else "float32"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _experiment(config: ModelConfig, run: pathlib.Path, option: HuggingFace | SentencePieceFile | None) -> Experiment:
    """An experiment that trains nothing: published weights are its step 0."""
    return Experiment(
        model=config,
        data=Data(
            path=str(run / "data"),
            tokenizer=option,
            validation=None,
            batch_size=8,
            sequence_length=min(config.context_length, MAX_WINDOW),
        ),
        training=Training(num_steps=1),
        optimizer=optimizers.SGD(momentum=0.0),
        schedule=Constant(peak=1e-5),
        samples=Samples(length=min(128, config.context_length - 1)),
    )


def _state(experiment: Experiment, params: dict[str, Any]) -> TrainState:
    """The state before the first step, with these parameters; plain gradient descent keeps no arrays of their size."""
    state_config = StateConfig.of(experiment)
    parts = partition_params(state_config, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **parts._asdict(),
        opt_state=build_optimizer(state_config).init(parts.params),
        key=jax.random.key_data(jax.random.key(experiment.training.seed)),
        guard=new_guard_state(experiment.training.guard),
    )


def _write_origin(folder: LanguageModelFolder, known: set[str], into: pathlib.Path) -> None:
    """Writes RUN/origin."""
    into.mkdir()
    for path in folder.other_files():
        shutil.copyfile(local_copy(path), into / path.name)
    folder.write_descriptions(into)
    for header in folder.headers:
        (into / (header.file + HEADER)).write_bytes(header.content)
    others: list[StoredTensor] = [stored for name, stored in folder.tensors.items() if name not in known]
    if others:
        save_file({stored.name: folder.read(stored) for stored in others}, into / BUFFERS)


def _write_tokenizer(option: HuggingFace | SentencePieceFile | None, into: pathlib.Path) -> None:
    """Writes a dataset without text that holds the tokenizer."""
    if option is not None:
        tokenizer = make_tokenizer(option, ())
        save_tokenizer(tokenizer, into)
        dataset.write_dataset(into, dataset.describe(tokenizer, into) | {"splits": {}}, {})
