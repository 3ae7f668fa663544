"""Checks before training starts; no check allocates an array of the model's size."""

import pathlib

import jax

from model.config import ModelConfig
from model.errors import UserError
from model.recompute import HOST_MEMORY, SaveOnly
from model.transformer import abstract_params, logical_axes
from train import experiment as experiments
from train.checkpoints.faults import UnreadableError
from train.checkpoints.store import CheckpointStore
from train.data.config import HuggingFace, SentencePieceFile
from train.data.tokenizers.interface import Tokenizer
from train.experiment import Experiment, num_micro_batches
from train.files.paths import AnyPath
from train.objectives.fit import tokenizer_size
from train.parallel import feed
from train.parallel.mesh import make_mesh
from train.parallel.table import layout_of, param_shardings
from train.process import hosts
from train.run.loading import load_params
from train.run.metrics import read_status


def refuse_quantized(model: ModelConfig, where: str, trained: ModelConfig | None = None) -> None:
    """Raises UserError for a model with quantised weights, which cannot be trained themselves, only beside adapters.

    Args:
      model: the model.
      where: its origin, for the error.
      trained: the model that is trained from it; None for the model itself.
    """
    weights, trained = model.precision.weights, trained or model
    if weights is not None and trained.adapters is None:
        raise UserError(
            f"{where}: its weights are quantised (model.precision.weights, {weights.text}), for inference alone; train "
            "the run that they were made from, set model.precision.weights=None, or train adapters beside them: "
            "model.adapters=LoRA()"
        )
    if weights is not None and weights.activations != "compute":
        raise UserError(
            f"{where}: its activations are rounded to {weights.activations}, which has no gradient; set "
            "model.precision.weights.activations='compute'"
        )
    if weights != trained.precision.weights:
        here, there = (weights and weights.text, trained.precision.weights and trained.precision.weights.text)
        raise UserError(
            f"{where}: its weights are stored as {here}, and those of this run as {there}; give both the same format "
            "(launch.convert --quantize writes a run with another one)"
        )


def check_mesh(experiment: Experiment, mesh: jax.sharding.Mesh | None = None) -> None:
    """Raises UserError when the devices, the batch or a parameter do not fit the mesh; allocates no array.

    The mesh is that of the experiment over the devices here, unless one over other devices is given.
    """
    mesh = make_mesh(experiment.mesh) if mesh is None else mesh
    layout = layout_of(mesh, experiment.sharding)
    rows, stages = layout.placement(("batch", "sequence")), layout.ways("batch") // layout.within_stage().ways("batch")
    for size in experiment.data.batch_sizes():
        name = "data.batch_size" if size == experiment.data.batch_size else "data.ramp.start"
        feed.check_batch_size(size, num_micro_batches(experiment, size), rows, stages, name)
    feed.check_sequence_length(experiment.data.sequence_length, rows)
    feed.check_sequence_length(getattr(experiment.data, "source_length", 0), rows, "data.source_length")
    shapes, axes = abstract_params(experiment.model), logical_axes(experiment.model)
    param_shardings(mesh, experiment.sharding, axes, shapes)
    _check_host_memory(experiment, mesh.devices.flat[0])


def _check_host_memory(experiment: Experiment, device: jax.Device) -> None:
    """Raises UserError for options that need memory of the host where the devices do not copy from and to it."""
    remat = experiment.model.remat
    wanted = {
        "sharding.moments='host'": experiment.sharding.moments == "host",
        "model.remat.offload": isinstance(remat, SaveOnly) and bool(remat.offload),
    }
    if asked := [name for name, on in wanted.items() if on]:
        kinds = [memory.kind for memory in device.addressable_memories()]
        if HOST_MEMORY not in kinds:
            raise UserError(
                f"{asked[0]}: a {device.platform} device here has the memories {', '.join(kinds)} and no {HOST_MEMORY} "
                f"to copy to; leave the option out"
            )


def check_vocabulary(experiment: Experiment, tokenizer: Tokenizer, folder: AnyPath) -> None:
    """Raises UserError when the tokenizer's vocabulary is not the model's."""
    size, model = tokenizer.vocab_size, tokenizer_size(experiment.objective, experiment.model, experiment.data)
    if size != model:
        own, option = experiment.model.vocab_size - model, tokenizer.option
        ways = [] if experiment.training.init_from else [f"--set model.vocab_size={size + own}"]
        if size < model and isinstance(option, HuggingFace | SentencePieceFile):
            ways.append(f"--set data.tokenizer.vocab_size={model}, where the model has rows that no token uses")
        ways.append("a dataset that was made for this model")
        use = f"{own} are for sentinels" if experiment.data.own_ids else f"{own} is for the mask"
        also = f" of which {use}" if own else ""
        raise UserError(
            f"model.vocab_size={model + own}{also}, but the tokenizer of {folder} has {size} tokens; use "
            f"{', or '.join(ways)}"
        )


def is_finished(experiment: Experiment, run: pathlib.Path) -> bool:
    """Whether a run has ended at its last step and all files of that checkpoint are as they were written.

    Raises UserError when the run belongs to another experiment, or when that checkpoint cannot be read.
    """
    status, last = read_status(run) or {}, experiment.training.num_steps
    if status.get("state") != "finished" or not (run / "config.json").is_file():
        return False
    experiments.check_same_experiment(experiment, run)
    with CheckpointStore(run, experiment.checkpoints, say=lambda line: None, read_only=True, alone=True) as store:
        intact = store.is_intact(last)
    if intact is not None or hosts.joined():  # the other processes do not load it here; continuing the run does
        return bool(intact)
    try:
        return load_params(run, str(last), mesh=experiment.mesh, sharding=experiment.sharding).step == last
    except UnreadableError:
        raise
    except UserError:  # continuing the run repairs it, or reports it again
        return False
