"""Loads any model for evaluation: a run folder, or a Hugging Face folder, of which nothing is written to the disk."""

import dataclasses
from typing import NoReturn

from model.config import ModelConfig
from model.errors import UserError
from model.families import model_config
from model.parameters.precision import Dtype, Precision
from train import experiment as experiments
from train.conversion.origin import method_of
from train.conversion.reading import open_published, read_params
from train.data.tokenizers.interface import make_tokenizer
from train.files.files import read_json
from train.files.paths import AnyPath, user_path
from train.files.remote import convert_read_errors, print_to_stderr
from train.parallel.mesh import Mesh
from train.parallel.table import Sharding
from train.run.loading import LoadedRun, load_run


@dataclasses.dataclass(frozen=True)
class PublishedModel(LoadedRun):
    """Published weights in the form of a run: step 0 of a training that has no data."""

    def dataset(self) -> NoReturn:
        """Raises UserError: such a folder has no text."""
        raise UserError(f"{self.folder} is a Hugging Face folder, which holds no text to measure; give --text=FILE")


def load_model(folder: str | AnyPath, checkpoint: str = "latest", *, mesh: Mesh | None = None) -> LoadedRun:
    """Loads a run folder (see `load_run`) or a Hugging Face folder (see `load_published`).

    Raises UserError as these do, and for a checkpoint of a Hugging Face folder, which has only one.
    """
    folder = user_path(folder)
    if not is_published(folder):
        return load_run(folder, checkpoint, mesh=mesh)
    if checkpoint not in ("latest", "0"):
        raise UserError(
            f"{folder} is a Hugging Face folder, which holds one set of weights; leave out the checkpoint "
            f"{checkpoint[:40]!r}"
        )
    return load_published(folder, mesh=mesh)


def is_published(folder: AnyPath) -> bool:
    """Whether a folder holds a published model: its config.json is not that of a run."""
    with convert_read_errors(folder):
        path = folder / "config.json"
        return path.is_file() and bool({"model_type", "architectures"} & read_json(path, "get it again").keys())


def described_model(folder: str | AnyPath) -> tuple[ModelConfig, Sharding]:
    """Returns the model that a run folder or a Hugging Face folder describes, and its sharding table; reads no weights.

    A Hugging Face folder that names no format of its weights counts as bfloat16. Raises UserError if there is neither.
    """
    folder = user_path(folder)
    if not is_published(folder):
        experiment = experiments.load(folder)
        return experiment.model, experiment.sharding
    with convert_read_errors(folder):
        values = read_json(folder / "config.json", "get it again")
    dtype: Dtype = "float32" if "float32" in (values.get("dtype"), values.get("torch_dtype")) else "bfloat16"
    return dataclasses.replace(model_config(values), precision=Precision(parameters=dtype, compute=dtype)), Sharding()


def load_published(folder: AnyPath, *, mesh: Mesh | None = None) -> PublishedModel:
    """The model in a Hugging Face folder, as launch.convert reads it, straight onto the devices.

    Parameters have the smallest format that holds the published ones exactly.

    Args:
      folder: the folder, on this machine or in a store.
      mesh: the mesh of the devices here; None for FSDP over all of them.

    Raises:
      UserError: for a model that cannot be read, a mesh that does not fit, and a folder without a tokenizer.
    """
    with convert_read_errors(folder):
        opened = open_published(folder, folder / "data", mesh=mesh)
        if opened.tokenizer is None:
            raise UserError(f"{folder} has no tokenizer.json or tokenizer.model, and text needs one; put it there")
        if opened.tensors.quantized:
            dtype = opened.experiment.model.precision.parameters
            print_to_stderr(f"{folder} has weights in {method_of(opened.folder.config)}: they are read as {dtype}")
        tokenizer = make_tokenizer(opened.tokenizer, ())
        if (warning := tokenizer.warning()) is not None:
            print_to_stderr(f"WARNING: {warning}")
        params = read_params(opened.folder, opened.family, opened.tensors, opened.experiment)
    return PublishedModel(
        folder=folder,
        experiment=opened.experiment,
        params=params,
        mesh=opened.choice.mesh,
        layout=opened.choice.layout,
        tokenizer=tokenizer,
        step=0,
    )
