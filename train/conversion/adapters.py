"""Run folders with adapters: made from an adapter in peft's format, written as one, and merged into their matrices.

RUN/adapter keeps what an adapter's folder has beside the numbers, so that the same files can be written again.
"""

import collections
import dataclasses
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from model.config import ModelConfig
from model.errors import UserError
from model.families import family_named, published_model
from model.families.family import Family
from model.options.tree import check
from model.parameters.adapters import BASE, MAGNITUDE, A, B, DoRA, branches, merge_adapters
from model.parameters.names import flatten, unflatten
from model.parameters.specs import merge, partition
from model.transformer import abstract_params, specs
from train import experiment as experiments
from train.conversion.adapter_format import (
    CONFIG,
    PREFIX,
    SUFFIXES,
    WEIGHTS,
    Place,
    config_of,
    places,
    read_option,
    roles_of,
    same_option,
)
from train.conversion.folder import (
    OTHER_WEIGHTS,
    Header,
    StoredTensor,
    TensorFiles,
    make_header,
    new_folder,
    read_header,
    write_tensors,
)
from train.conversion.origin import HEADER
from train.conversion.published_config import config_like
from train.conversion.run_folder import derived_experiment, write_derived
from train.experiment import Experiment
from train.files.files import read_json, write_json
from train.files.paths import AnyPath
from train.files.remote import local_copy
from train.parallel.mesh import Mesh
from train.parallel.mesh_choice import model_shardings
from train.run.folder import ADAPTER, ORIGIN
from train.run.loading import load_params
from train.terminal.formatting import format_counted

MAX_LISTED = 20  # lines about the tensors of an adapter


def family_of(
    run: AnyPath, plain: ModelConfig, family: str | None, like: str | None, accept: Sequence[str] = ()
) -> tuple[Family, str | None]:
    """The family whose names a run's matrices have, and the name of the published model if the run was read from one.

    Raises UserError where neither the run nor `family` or `like` says so.
    """
    if (run / ORIGIN).is_dir():
        values = read_json(local_copy(run / ORIGIN) / "config.json")
        name = values.get("_name_or_path")
        return published_model(values).family, name if isinstance(name, str) and name else None
    if like is not None:
        return config_like(like, plain, run, accept)[0], None
    if family is not None:
        return family_named(family), None
    raise UserError(
        f"{run} was not read from published weights, so name the family whose names an adapter has: --like=FILE, a "
        "config.json that describes its model, or --family=llama"
    )


def read_adapter(
    source: AnyPath,
    base: AnyPath,
    run: pathlib.Path,
    *,
    checkpoint: str = "latest",
    family: str | None = None,
    like: str | None = None,
    mesh: Mesh | None = None,
    accept: Sequence[str] = (),
) -> Experiment:
    """Writes a run folder that has the parameters of another run, and beside them an adapter in peft's format.

    Args:
      source: the adapter's folder.
      base: the run of the adapter's model.
      run: the new run folder, which must not exist.
      checkpoint: latest, best, or a step of `base`.
      family, like, accept: as for `family_of`.
      mesh: the mesh of the devices here; None as for `train.run.loading.load_run`.

    Raises:
      UserError: for an adapter of another model, with the names, or of a kind that is not read.
    """
    before = experiments.load(base)
    if before.model.adapters is not None:
        raise UserError(f"{base} has adapters already; merge them into it first (launch.convert --merge)")
    values = read_json(source / CONFIG, remedy="get it again")
    if not (source / WEIGHTS).is_file():
        raise UserError(f"{source} has no {WEIGHTS}; files of other kinds are not read, so save it with safetensors")
    plain = before.model.unquantized()
    found, fused = places(family_of(base, plain, family, like, accept)[0], plain)
    tensors = TensorFiles(source, [read_header(source / WEIGHTS)])
    chosen = _modules_of(tensors, found, fused, str(source))
    where = f"{source}/{CONFIG}"
    option = read_option(values, where, roles_of(plain, {place.parameter for place in chosen.values()}))
    if not option.roles:
        raise UserError(
            f"{source} adapts modules that no roles choose ({', '.join(sorted(chosen))}); adapters here are those of "
            "all layers, by role and axis (model/parameters/adapters.py)"
        )
    model = dataclasses.replace(before.model, adapters=option)
    check(model, "model")
    experiment = derived_experiment(before, model)
    layers = collections.Counter(place.parameter for place in found.values())
    factors = _factors(tensors, chosen, layers, model, str(source))

    def params() -> tuple[Any, int]:
        loaded = load_params(base, checkpoint, mesh=mesh)
        placements = flatten(model_shardings(model, loaded.mesh, loaded.table))
        arrays = _with_base_names(flatten(loaded.params), model)
        arrays |= {name: jax.device_put(x, placements[name]) for name, x in factors.items()}
        return unflatten(abstract_params(model), arrays), loaded.step

    def more(part: pathlib.Path) -> None:
        (part / ADAPTER).mkdir()
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix not in OTHER_WEIGHTS:
                shutil.copyfile(local_copy(path), part / ADAPTER / path.name)
        (part / ADAPTER / (WEIGHTS + HEADER)).write_bytes(tensors.headers[0].content)

    write_derived(experiment, base, run, params, more)
    return experiment


def _parsed(name: str) -> tuple[str, str] | None:
    """The module and the factor of a tensor's name."""
    name = name.removeprefix(PREFIX)
    for factor, suffix in SUFFIXES.items():
        for ending in (suffix, f"{suffix}.weight"):
            if name.endswith(ending):
                return name.removesuffix(ending), factor
    return None


def _modules_of(
    tensors: TensorFiles, found: dict[str, Place], fused: dict[str, tuple[str, ...]], source: str
) -> dict[str, Place]:
    """The adapted modules. Raises UserError that lists the tensors that the model has no place for."""
    problems, modules = [], set()
    for name in tensors.tensors:
        parsed = _parsed(name)
        if parsed is None:
            problems.append(f"{name} is no factor of an adapter")
        elif parsed[0] in fused:
            held = " and ".join(each.rpartition(".")[2] for each in fused[parsed[0]])
            problems.append(f"{name} adapts {held} together, and here each matrix has its own adapter")
        elif parsed[0] not in found:
            problems.append(f"{name}: the model has no such matrix with an adapter")
        else:
            modules.add(parsed[0])
    _raise(problems, source)
    return {module: place for module, place in found.items() if module in modules}


def _raise(problems: list[str], source: str) -> None:
    if problems:
        listed = [*sorted(problems)[:MAX_LISTED]]
        listed += [f"and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        count = format_counted(len(problems), "problem")
        raise UserError("\n  ".join([f"{source} is no adapter of this model ({count}):", *listed]))


def _factors(
    tensors: TensorFiles, chosen: dict[str, Place], layers: collections.Counter[str], model: ModelConfig, source: str
) -> dict[str, np.ndarray]:
    """The factors by dotted name, stacked. Raises UserError that lists those that are missing or have other shapes."""
    assert model.adapters is not None
    rank = model.adapters.rank
    stored = {parsed: tensor for name, tensor in tensors.tensors.items() if (parsed := _parsed(name)) is not None}
    names, problems = [A, B, *([MAGNITUDE] if isinstance(model.adapters, DoRA) else [])], []
    shapes = flatten(abstract_params(model))
    found = {
        f"{place.parameter}.{factor}": np.zeros(shapes[f"{place.parameter}.{factor}"].shape, np.float32)
        for place in chosen.values()
        for factor in names
    }
    filled: collections.Counter[str] = collections.Counter()
    for (module, factor), tensor in stored.items():
        if factor not in names:
            problems.append(f"{tensor.name} needs use_dora=true in {CONFIG}")
            continue
        place = chosen[module]
        if tensor.shape != (expected := place.shape_of(factor, rank)):
            problems.append(f"{tensor.name} is {_shape(tensor.shape)}, expected {_shape(expected)}")
            continue
        name = f"{place.parameter}.{factor}"
        found[name][place.index] = place.from_published(factor, tensors.read(tensor).astype(np.float32))
        filled[name] += 1
    for place in chosen.values():
        for factor in names:
            count = filled[name := f"{place.parameter}.{factor}"]
            if not problems and count < layers[place.parameter]:
                problems.append(f"{name}: {count} of {layers[place.parameter]} layers have it; here all have adapters")
    _raise(problems, source)
    return found


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _with_base_names(arrays: dict[str, Any], model: ModelConfig) -> dict[str, Any]:
    """The parameters of the model without adapters, under their names beside adapters."""
    renamed = {}
    for path in branches(specs(model)):
        for name in list(arrays):
            if name == path or name.startswith(f"{path}."):
                renamed[f"{path}.{BASE}{name[len(path) :]}"] = arrays.pop(name)
    return arrays | renamed


# ------------------------------------------------------------------------------------------------------------- writing


def write_adapter(
    run: AnyPath,
    target: pathlib.Path,
    *,
    checkpoint: str = "latest",
    family: str | None = None,
    like: str | None = None,
    mesh: Mesh | None = None,
    accept: Sequence[str] = (),
) -> None:
    """Writes the adapters of a run in peft's format; arguments as for `read_adapter`.

    Raises UserError for adapters that the published model has no modules for.
    """
    model = experiments.load(run).model
    option = model.adapters
    assert option is not None
    plain = dataclasses.replace(model.unquantized(), adapters=None)
    published, base = family_of(run, plain, family, like, accept)
    found, fused = places(published, plain)
    adapted = branches(specs(model))
    chosen = {module: place for module, place in found.items() if place.parameter in adapted}
    missing = adapted.keys() - {place.parameter for place in chosen.values()}
    if missing:
        together = sorted(module for module, names in fused.items() if missing & set(names))
        why = f": the family {published.name} has several matrices in {together[0]}" if together else ""
        raise UserError(
            f"{run}: {', '.join(sorted(missing))} has an adapter, and no module of its own in published models{why}; "
            "merge the adapters (--merge), or train others (model.adapters.roles)"
        )
    kept = local_copy(run / ADAPTER) if (run / ADAPTER).is_dir() else None
    values = None if kept is None else read_json(kept / CONFIG)
    if values is not None and not same_option(read_option(values, f"{kept}/{CONFIG}", option.roles), option):
        kept = values = None
    with new_folder(target) as part:
        if kept is not None:
            header = Header(WEIGHTS, (kept / (WEIGHTS + HEADER)).read_bytes())
            for path in sorted(kept.iterdir()):
                if not path.name.endswith(HEADER):
                    shutil.copyfile(path, part / path.name)
        else:
            header = make_header(WEIGHTS, _described(chosen, option.rank, isinstance(option, DoRA)))
            others = (*(module for module in found if module not in chosen), *fused)
            write_json(part / CONFIG, config_of(option, tuple(chosen.values()), others, base))
        arrays = flatten(load_params(run, checkpoint, mesh=mesh).params)

        def tensor(stored: StoredTensor) -> np.ndarray:
            module, factor = _parsed(stored.name) or ("", "")
            place = chosen[module]
            return place.to_published(factor, np.asarray(arrays[f"{place.parameter}.{factor}"])[place.index])

        for _ in write_tensors(part, header, tensor):
            pass


def _described(chosen: dict[str, Place], rank: int, dora: bool) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """The name, format and shape of each tensor."""
    for module, place in chosen.items():
        for factor in (A, B, MAGNITUDE) if dora else (A, B):
            yield f"{PREFIX}{module}{SUFFIXES[factor]}", "F32", place.shape_of(factor, rank)


def merge_run(
    run: AnyPath, target: pathlib.Path, *, checkpoint: str = "latest", mesh: Mesh | None = None
) -> Experiment:
    """Writes a run folder whose matrices are those of a run times its adapters, under the same step.

    A quantised matrix becomes one in the format of the other parameters.

    Raises UserError for a run without adapters, and as `load_run` does; then nothing is written.
    """
    before = experiments.load(run)
    if before.model.adapters is None:
        raise UserError(f"{run} has no adapters (model.adapters) to merge; leave out --merge")
    model, option = dataclasses.replace(before.model.unquantized(), adapters=None), before.model.adapters
    experiment = derived_experiment(before, model)

    def params() -> tuple[Any, int]:
        loaded = load_params(run, checkpoint, mesh=mesh)
        shapes, known = abstract_params(model), specs(before.model)

        def merged(kept: Any, factors: Any) -> Any:
            whole = merge_adapters(merge(kept, factors), known, option)
            return jax.tree.map(lambda x, like: x.astype(like.dtype), whole, shapes)

        factors, kept = partition(loaded.params, known, lambda _, spec: spec.traits.added)
        reused = () if before.model.precision.weights is not None else (0,)
        places = model_shardings(model, loaded.mesh, loaded.table)
        return jax.jit(merged, out_shardings=places, donate_argnums=reused)(kept, factors), loaded.step

    write_derived(experiment, run, target, params)
    return experiment
