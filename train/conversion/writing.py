"""Converts a run folder to a Hugging Face folder, tensor by tensor: the files that it was read from, or new files."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from model.config import ModelConfig, model_differences
from model.errors import UserError
from model.families import published_model
from model.families.family import Family
from model.parameters.names import flatten
from model.transformer import abstract_params
from train import experiment as experiments
from train.conversion.folder import INDEX, Header, StoredTensor, TensorFiles, make_header, new_folder, write_tensors
from train.conversion.origin import FORMATS, buffers, copy_origin, headers_of, was_quantized
from train.conversion.published_config import config_like, family_for
from train.data.shards.dataset import dataset_of_run
from train.files.files import read_json, write_json
from train.files.paths import AnyPath
from train.files.remote import local_copy, print_to_stderr
from train.parallel.mesh import Mesh
from train.run.conversion_record import read_record
from train.run.folder import ORIGIN
from train.run.loading import load_params
from train.terminal.progress import Progress

MAX_FILE_BYTES = 5 * 10**9  # bytes, the default of transformers


def write_published(
    run: AnyPath,
    target: pathlib.Path,
    *,
    checkpoint: str = "latest",
    family: str | None = None,
    like: str | None = None,
    mesh: Mesh | None = None,
    accept: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the parameters of a checkpoint as published weights.

    A run that was read from a Hugging Face folder, or trained from such a run, gets that folder's files again, with its
    present weights. Any other run needs `like` or `family`, from which its config.json is made.

    Args:
      run: the run folder.
      target: the Hugging Face folder, which must not exist.
      checkpoint: latest, best, or a step.
      family: the name of a family that makes a config.json from a model.
      like: a config.json that describes the model, its folder, or the name of a published model.
      mesh: the mesh of the devices here; None as for `train.run.loading.load_run`.
      accept: refused keys of the config.json of `like`, which are left out.

    Returns:
      The values of config.json in which the run differs from `like`: the size of its vocabulary, its context length.

    Raises:
      UserError: for a model that the family cannot describe, or that differs from `like`; then nothing is written.
    """
    config = experiments.load(run).model.written_out()  # published files know no parametrisation
    if (weights := config.precision.weights) is not None:
        raise UserError(
            f"{run}: its weights are quantised ({weights.text}), and no published format of this command holds them; "
            "write the run that they were made from"
        )
    origin = local_copy(run / ORIGIN) if (run / ORIGIN).is_dir() else pathlib.Path(run / ORIGIN)
    changed_values: dict[str, Any] = {}
    if origin.is_dir():
        values = read_json(origin / "config.json")
        published, record = published_model(values), read_record(origin)
        chosen = published.family
        if family not in (None, chosen.name):
            raise UserError(f"--family={family}, but {run} was read from the family {chosen.name}; leave it out")
        if like is not None:
            raise UserError(f"--like={like}, but {run} has the config.json that it was read with; leave it out")
        # --context_length may have set the context length.
        stored = {tensor.name for header in headers_of(origin) for tensor in header.tensors}
        described = published.read(record["accepted"]).config
        described = chosen.with_parts(described, stored - buffers(origin).tensors.keys())
        if changed := model_differences(described, config, "context_length"):
            listed = "\n  ".join(changed)
            raise UserError(
                f"the model is not the one of {origin}/config.json (its value -> this run's):\n  {listed}\n"
                f"Move {origin} away, and give a config.json that describes the run's model with --like"
            )
    elif like is not None:
        chosen, values, changed_values = config_like(like, config, run, accept)
    else:
        chosen = family_for(family, run)
        values = chosen.config_json(config)
    with new_folder(target) as part:
        if origin.is_dir():
            headers = copy_origin(origin, part)
        else:
            headers = _write_new_files(chosen, values, config, run, part)
        _write(chosen, config, load_params(run, checkpoint, mesh=mesh).params, headers, buffers(origin), part)
    if (method := was_quantized(origin)) is not None:
        print_to_stderr(
            f"{run} was read from weights in {method}: {target} has them as {config.precision.parameters}, and its "
            "config.json has no quantization_config"
        )
    return changed_values


def _write_new_files(
    family: Family, values: dict[str, Any], config: ModelConfig, run: AnyPath, into: pathlib.Path
) -> list[Header]:
    """Writes config.json, the tokenizer, and an index if there are several files; returns the headers of the files."""
    tokenizer = dataset_of_run(run).tokenizer
    values = values | {"torch_dtype": config.precision.parameters, "eos_token_id": tokenizer.end_of_document}
    values |= {"bos_token_id": tokenizer.begin_of_document}
    write_json(into / "config.json", values)
    tokenizer.save(into)
    leaves = flatten(abstract_params(config))
    files: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, tensor in family.tensors(config).items():
        if tensor.copy:
            continue
        dtype = leaves[tensor.parts[0].parameter].dtype  # a load bias is always float32
        bytes_here = int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize
        if files[-1] and size + bytes_here > MAX_FILE_BYTES:
            files.append([])
            size = 0
        files[-1].append((name, FORMATS[dtype.name], tensor.shape))
        size += bytes_here
    if len(files) == 1:
        return [make_header("model.safetensors", files[0])]
    names = [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    weight_map = {tensor[0]: name for name, tensors in zip(names, files, strict=True) for tensor in tensors}
    write_json(into / INDEX, {"metadata": {}, "weight_map": weight_map})
    return [make_header(name, tensors) for name, tensors in zip(names, files, strict=True)]


def _write(
    family: Family,
    config: ModelConfig,
    params: dict[str, Any],
    headers: list[Header],
    others: TensorFiles,
    into: pathlib.Path,
) -> None:
    """Writes the files; the host holds one tensor at a time."""
    stored = {tensor.name for header in headers for tensor in header.tensors}
    tensors, names = family.tensors(config), family.file_names(config, stored)
    table = {names[name]: tensor for name, tensor in tensors.items()}
    arrays = flatten(params)
    for name, absent in table.items():
        if absent.else_zeros and name not in stored and any(arrays[part.parameter].any() for part in absent.parts):
            raise UserError(
                f"the files that this run was read from have no {name}, which stands for zeros, and it is not 0 now; "
                f"move its folder {ORIGIN} away, and give the published folder with --like"
            )

    def tensor(stored: StoredTensor) -> np.ndarray:
        if stored.name in others.tensors:
            return others.read(others.tensors[stored.name])
        parts = table[stored.name].parts
        return table[stored.name].join([_slice(arrays[part.parameter], part.index) for part in parts])

    def written() -> Iterator[StoredTensor]:
        for header in headers:
            yield from write_tensors(into, header, tensor)

    total = sum(tensor.end - tensor.begin for header in headers for tensor in header.tensors)
    with Progress("writing", total, unit="bytes") as progress:
        done = 0
        for tensor_written in written():
            done += tensor_written.end - tensor_written.begin
            progress.update(done)


def _slice(x: jax.Array, index: tuple[int, ...]) -> np.ndarray:
    """A slice of a stack, assembled on the host from the shards; no data moves between devices."""
    if x.is_fully_replicated:
        return _on_host(x.addressable_shards[0].data, index)
    found = np.empty(x.shape[len(index) :], x.dtype)
    for shard in x.addressable_shards:
        ranges = [range(*part.indices(size)) for part, size in zip(shard.index, x.shape, strict=True)]
        if shard.replica_id == 0 and all(i in at for i, at in zip(index, ranges, strict=False)):
            local_index = tuple(i - at.start for i, at in zip(index, ranges, strict=False))
            found[shard.index[len(index) :]] = _on_host(shard.data, local_index)
    return found


def _on_host(x: jax.Array, index: tuple[int, ...]) -> np.ndarray:
    """A slice of an array of one device; no more of it comes to the host."""
    (device,) = x.devices()
    if device.platform == "cpu" or not index:  # the host's memory is the device's; x[()] would copy the whole array
        return np.asarray(x)[index]
    return np.asarray(x[index])
