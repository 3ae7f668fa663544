"""Converts a Hugging Face folder to a run folder, tensor by tensor.

RUN/origin keeps the other contents of the folder: config.json and all files beside the weights, the headers of the
safetensors files, and the tensors that are not weights, so that the same files can be written again. Of quantised
weights it keeps the headers and the config.json that files have which hold them in the run's format.
"""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.families.family import Family
from model.families.quantization import method_of_tensors, not_read, quantization_of
from model.families.regions import Bounds, region, select, union
from model.families.weights import Part, Tensor
from model.options.tree import check
from model.parameters.names import flatten, unflatten
from model.parameters.precision import Dtype, Precision
from model.parameters.quantized_weights import QuantizedWeights
from model.parameters.specs import specs_by_name
from model.positions.absolute import Learned
from model.transformer import abstract_params, specs
from train.conversion.expert_tensors import join_experts
from train.conversion.folder import HuggingFaceFolder, StoredTensor, new_folder
from train.conversion.language_model import LanguageModelFolder, record_of
from train.conversion.origin import Source, method_of, write_origin
from train.conversion.quantized import FP8, quantized_tensors
from train.conversion.quantizing import quantize_params, quantized_model
from train.conversion.run_folder import write_description, write_parameters
from train.conversion.tokenizer import mask_id, tokenizer_option
from train.data.config import Data, HuggingFace, SentencePieceFile
from train.data.pairs.option import Pairs
from train.data.shards import dataset
from train.data.tokenizers.interface import make_tokenizer, save_tokenizer
from train.experiment import Experiment, Samples, Training
from train.files.files import write_json
from train.files.paths import AnyPath
from train.files.remote import print_to_stderr
from train.objectives.masked import MaskedTokens
from train.optimizers import options as optimizers
from train.parallel.mesh import Mesh, make_mesh
from train.parallel.mesh_choice import MeshChoice, fsdp_mesh, model_shardings, requested_mesh
from train.parallel.shards import Shards, new_shards
from train.parallel.table import Sharding
from train.run.conversion_record import RECORD, reading_notes
from train.run.folder import ORIGIN
from train.schedules import Constant
from train.terminal.formatting import format_counted
from train.terminal.progress import Progress

# The longest default window of launch.evaluate.
MAX_WINDOW = 2048
MAX_LISTED = 20  # lines about the tensors of a folder


class PublishedTensors(NamedTuple):
    """The tensors of a folder.

    Attributes:
      weights: the weights, by their names in the family's table.
      others: the tensors that hold no weights.
      quantized: whether any is quantised.
    """

    weights: dict[str, Source]
    others: list[Source]
    quantized: bool


class Published(NamedTuple):
    """A Hugging Face folder whose weights are not read yet.

    Attributes:
      folder: the open folder.
      family: its family.
      tensors: its tensors.
      experiment: an experiment with its model and its tokenizer, on a mesh of the devices here.
      tokenizer: its tokenizer, or None.
      choice: the mesh.
      record: the notes that RUN/origin keeps.
    """

    folder: LanguageModelFolder
    family: Family
    tensors: PublishedTensors
    experiment: Experiment
    tokenizer: HuggingFace | SentencePieceFile | None
    choice: MeshChoice
    record: dict[str, Any]


def read_published(
    source: AnyPath,
    run: pathlib.Path,
    *,
    parameter_dtype: Dtype | None = None,
    compute_dtype: Dtype | None = None,
    context_length: int | None = None,
    mesh: Mesh | None = None,
    accept: Sequence[str] = (),
    weights: QuantizedWeights | None = None,
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
      weights: the format to quantise matrices to, for inference; None to leave them as they are.

    Raises:
      UserError: for a family, a mechanism or a tensor that cannot be mapped, and for a mesh that does not fit the
        devices or the model; then nothing is written.
    """
    opened = open_published(
        source,
        run / "data",
        parameter_dtype=parameter_dtype,
        compute_dtype=compute_dtype,
        context_length=context_length,
        mesh=mesh,
        accept=accept,
    )
    folder, tensors, experiment, option = opened.folder, opened.tensors, opened.experiment, opened.tokenizer
    if tensors.quantized:
        print_to_stderr(
            f"{source} has weights in {method_of(folder.config)}: they become {experiment.model.precision.parameters}, "
            "and are written back so, without quantization_config"
        )
    saved = experiment
    if weights is not None:
        saved = dataclasses.replace(experiment, model=quantized_model(experiment.model, weights))
        check(saved)
    with new_folder(run) as part:
        dtype = experiment.model.precision.parameters
        write_origin(folder, tensors.weights.values(), tensors.others, dtype, part / ORIGIN)
        write_json(part / ORIGIN / RECORD, opened.record)
        _write_tokenizer(option, part / "data")
        write_description(saved, part)
        params = read_params(folder, opened.family, tensors, experiment, once=True)
        if weights is not None:
            params = quantize_params(params, experiment.model, weights, opened.choice.mesh, opened.choice.table)
        write_parameters(saved, params, part)
    return saved


def open_published(
    source: AnyPath,
    dataset: AnyPath,
    *,
    parameter_dtype: Dtype | None = None,
    compute_dtype: Dtype | None = None,
    context_length: int | None = None,
    mesh: Mesh | None = None,
    accept: Sequence[str] = (),
) -> Published:
    """Reads all of a Hugging Face folder but the values of its weights, and prints notes about it.

    Args:
      source, parameter_dtype, compute_dtype, context_length, mesh, accept: as for `read_published`.
      dataset: the folder of the dataset in the experiment.

    Raises:
      UserError: as `read_published`.
    """
    folder = LanguageModelFolder(source)
    family, reading = folder.model.family, folder.model.read(accept)
    config = family.with_parts(reading.config, folder.tensors)
    if context_length is not None:
        config = _with_context_length(config, context_length)
    tensors = published_tensors(family, config, folder)
    parameter_dtype = parameter_dtype or _smallest_dtype(config, family.tensors(config), tensors, folder)
    precision = Precision(parameters=parameter_dtype, compute=compute_dtype or parameter_dtype)
    config = dataclasses.replace(config, precision=precision)
    option = tokenizer_option(source, config.vocab_size)
    choice = fsdp_mesh(config, Sharding()) if mesh is None else requested_mesh(config, mesh, Sharding())
    if choice.note is not None:
        print_to_stderr(choice.note)
    record = record_of(folder, reading)
    for note in reading_notes(record, family.architecture):
        print_to_stderr(f"{source}: {note}")
    experiment = dataclasses.replace(_experiment(config, dataset, option), mesh=choice.option, sharding=choice.table)
    if not config.visibility.decodes:
        experiment = dataclasses.replace(experiment, objective=MaskedTokens(mask_id=mask_id(source, option)))
    check(experiment)
    return Published(folder, family, tensors, experiment, option, choice, record)


def _with_context_length(config: ModelConfig, length: int) -> ModelConfig:
    """The model with another context length. Raises UserError for one that it cannot have."""
    if length < 1:
        raise UserError(f"--context_length={length}, expected at least 1")
    if isinstance(config.position, Learned) and length != config.context_length:
        raise UserError(
            f"--context_length={length}, but this model has learned a table of {config.context_length} positions; "
            "leave the flag out"
        )
    return dataclasses.replace(config, context_length=length)


def published_tensors(family: Family, config: ModelConfig, folder: HuggingFaceFolder) -> PublishedTensors:
    """The tensors of a folder: the weights of this model, and the others.

    Raises UserError that lists tensors that are missing, have another shape, or do not belong to the model.
    """
    quantization = quantization_of(folder.config)
    quantized, left_out, problems = quantized_tensors(folder.tensors, quantization)
    scales = left_out | {part.name for tensor in quantized.values() for part in tensor.stored}
    present: dict[str, Source] = {name: x for name, x in folder.tensors.items() if name not in scales}
    table, weights = family.tensors(config), {}
    present |= join_experts(quantized, table) if family.experts_apart else quantized
    names = family.file_names(config, present)
    for name, tensor in table.items():
        stored = present.get(names[name])
        if stored is None and not (tensor.copy or tensor.else_zeros):
            problems.append(f"{names[name]} is missing, expected {_shape(tensor.shape)}")
        elif stored is not None and stored.shape != tensor.shape:
            problems.append(f"{stored.name} is {_shape(stored.shape)}, expected {_shape(tensor.shape)}")
        elif isinstance(stored, StoredTensor) and stored.dtype not in ("BF16", "F16", "F32", *FP8):
            problems.append(f"{stored.name} is {stored.dtype}, expected BF16, F16 or F32")
        if stored is not None:
            weights[name] = stored
    known = {stored.name for stored in weights.values()}
    others = [stored for name, stored in present.items() if name not in known]
    for stored in others:
        if not any(fnmatch.fnmatch(stored.name, pattern) for pattern in family.buffer_patterns(config)):
            problems.append(f"{stored.name} {_shape(stored.shape)} is no tensor of such a model")
    if problems:
        if quantization is None and (method := method_of_tensors(folder.tensors)) is not None:
            raise not_read(str(folder.path), method)
        listed = "\n  ".join(sorted(problems)[:MAX_LISTED])
        if len(problems) > MAX_LISTED:
            listed += f"\n  and {len(problems) - MAX_LISTED} more"
        count = format_counted(len(problems), "problem")
        heading = f"{folder.path}: the tensors do not fit its config.json ({count}); take both from the same model:"
        raise UserError(f"{heading}\n  {listed}")
    return PublishedTensors(weights, others, bool(quantized))


def read_params(
    folder: HuggingFaceFolder,
    family: Family,
    tensors: PublishedTensors,
    experiment: Experiment,
    once: bool = False,
) -> dict[str, Any]:
    """The parameters on the experiment's mesh: the host holds one tensor at a time, a device its shards.

    With `once` the files leave the system's cache as they are read, because nothing is going to read them again soon.
    """
    shapes = abstract_params(experiment.model)
    placements = flatten(model_shardings(experiment.model, make_mesh(experiment.mesh), experiment.sharding))
    shards = {name: new_shards(leaf.shape, leaf.dtype, placements[name]) for name, leaf in flatten(shapes).items()}
    fill(folder, family.tensors(experiment.model), tensors.weights, shards, once)
    tree: dict[str, Any] = unflatten(shapes, {name: one.array() for name, one in shards.items()})
    return tree


def fill(
    folder: HuggingFaceFolder,
    table: Mapping[str, Tensor],
    weights: Mapping[str, Source],
    shards: Mapping[str, Shards],
    once: bool = False,
) -> None:
    """Fills the shards of this process's devices, and reads no more of the files than these hold; `once` as above.

    Raises UserError for a copy of a tensor that differs from it.
    """
    read = {name: tensor for copied in (False, True) for name, tensor in table.items() if tensor.copy == copied}
    sizes = {name: sum(stored.end - stored.begin for stored in source.stored) for name, source in weights.items()}
    done = 0
    with Progress("reading", sum(sizes.values()), unit="bytes") as progress:
        for name, tensor in read.items():
            if name not in weights:
                _fill_zeros(tensor, shards)
                continue
            for part, bounds, x in _pieces(folder, tensor, weights[name], shards):
                held = shards[part.parameter]
                if not tensor.copy:
                    held.write(part.index, bounds, x)
                elif not held.equal(part.index, bounds, x):
                    raise UserError(
                        f"{weights[name].name} is tied to another tensor by config.json, and differs from it; if the "
                        "tensor is right, write tie_word_embeddings=false there"
                    )
            for stored in weights[name].stored if once else ():
                folder.forget(stored)
            done += sizes[name]
            progress.update(done)
    folder.release()


def _fill_zeros(tensor: Tensor, shards: Mapping[str, Shards]) -> None:
    """Writes zeros where a tensor that files may lack belongs; a copy belongs nowhere."""
    for part in () if tensor.copy else tensor.parts:
        held = shards[part.parameter]
        for bounds in held.regions(part.index):
            held.write(part.index, bounds, np.zeros([stop - start for start, stop in bounds], held.dtype))


def _pieces(
    folder: HuggingFaceFolder, tensor: Tensor, source: Source, shards: Mapping[str, Shards]
) -> Iterator[tuple[Part, Bounds, np.ndarray]]:
    """Reads the entries of a tensor that the devices here hold, once; yields them as slices of parameters."""
    wanted = [
        (part, bounds, region(tensor, number, bounds))
        for number, part in enumerate(tensor.parts)
        for bounds in shards[part.parameter].regions(part.index)
    ]
    if wanted:
        held = union(tensor.shape, [one for _, _, one in wanted])
        entries = source.read(folder, held, shards[tensor.parts[0].parameter].dtype)
        for part, bounds, one in wanted:
            yield part, bounds, one.arrange(select(entries, held, one.positions))


def _smallest_dtype(
    config: ModelConfig, table: dict[str, Tensor], tensors: PublishedTensors, folder: HuggingFaceFolder
) -> Dtype:
    """The smallest format that holds every tensor exactly, except the tensors that are always float32.

    For quantised weights it is the format that config.json names, into which `transformers` turns them.
    """
    if tensors.quantized:
        values = [values for values in (folder.config, folder.config.get("text_config")) if isinstance(values, dict)]
        named = [one.get(key) for one in values for key in ("dtype", "torch_dtype")]
        return "bfloat16" if next((name for name in named if name), "bfloat16") == "bfloat16" else "float32"
    known = specs_by_name(specs(config))
    weights = [
        source.dtype
        for name, source in tensors.weights.items()
        if known[table[name].parts[0].parameter].traits.storage_dtype == "parameters"
        and isinstance(source, StoredTensor)
    ]
    return "bfloat16" if set(weights) == {"BF16"} else "float32"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _experiment(config: ModelConfig, dataset: AnyPath, option: HuggingFace | SentencePieceFile | None) -> Experiment:
    """An experiment that trains nothing: published weights are its step 0."""
    path, length = str(dataset), min(config.context_length, MAX_WINDOW)
    data: Data | Pairs = Data(path=path, tokenizer=option, validation=None, batch_size=8, sequence_length=length)
    if (encoder := config.encoder) is not None:
        longest = min(encoder.context_length, MAX_WINDOW)
        data = Pairs(path=path, tokenizer=option, batch_size=8, source_length=longest, sequence_length=length)
    return Experiment(
        model=config,
        data=data,
        training=Training(num_steps=1),
        optimizer=optimizers.SGD(momentum=0.0),
        schedule=Constant(peak=1e-5),
        samples=Samples(length=min(128, config.context_length - 1)),
    )


def _write_tokenizer(option: HuggingFace | SentencePieceFile | None, into: pathlib.Path) -> None:
    """Writes a dataset without text that holds the tokenizer."""
    if option is not None:
        tokenizer = make_tokenizer(option, ())
        save_tokenizer(tokenizer, into)
        dataset.write_dataset(into, dataset.describe(tokenizer, into) | {"splits": {}}, {})
