"""The language model in a Hugging Face folder of a multimodal model, as a folder of its own.

Its tensors get the names that they have in a folder of the language model alone; the other tensors are left out.
"""

import collections
import dataclasses
import pathlib
from typing import Any

import numpy as np

from model.families import PublishedModel, published_model
from model.families.family import Reading
from model.families.multimodal import left_out_prefix, text_names
from model.families.quantization import quantization_of
from train.conversion.expert_tensors import split_experts
from train.conversion.folder import INDEX, HuggingFaceFolder, make_header
from train.files.files import write_json
from train.files.paths import AnyPath

# Files beside the weights that describe the input of the whole model.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


class LanguageModelFolder(HuggingFaceFolder):
    """A Hugging Face folder whose language model is read; of a folder of a language model, everything is.

    Attributes:
      model: the language model as its config.json describes it.
      left_out: the number of tensors that are left out and their bytes, by the beginning of their names.
    """

    def __init__(self, path: AnyPath) -> None:
        """Raises UserError when it is no Hugging Face folder, has no such weights, or no family has its model."""
        super().__init__(path)
        self.model: PublishedModel = published_model(self.config, self.tensors)
        self.left_out: dict[str, tuple[int, int]] = {}
        if self.model.multimodal is None:
            return
        self.config = self.model.values
        names = text_names(self.tensors)
        counts, sizes = collections.Counter[str](), collections.Counter[str]()
        for name in self.tensors.keys() - names.keys():
            counts[left_out_prefix(name)] += 1
            sizes[left_out_prefix(name)] += self.tensors[name].end - self.tensors[name].begin
        self.left_out = {prefix: (counts[prefix], sizes[prefix]) for prefix in sorted(counts)}
        shapes = self._expert_shapes() if self.model.multimodal.stacked_experts else {}
        found = quantization_of(self.config)
        block = None if found is None else found.block
        text = {new: dataclasses.replace(self.tensors[name], name=new) for name, new in names.items()}
        kept = [
            (header.file, tensor)
            for header in self.headers
            for stored in header.tensors
            if stored.name in names
            for tensor in split_experts(text[names[stored.name]], text, shapes, block)
        ]
        self.tensors = {tensor.name: tensor for _, tensor in kept}
        self.headers = [
            make_header(header.file, [(t.name, t.dtype, t.shape) for file, t in kept if file == header.file])
            for header in self.headers
        ]
        self.headers = [header for header in self.headers if header.tensors]

    def _expert_shapes(self) -> dict[str, tuple[int, int]]:
        """The outputs and inputs of an expert's projections, by the name of the tensor that holds all experts."""
        width, inner = self.config["hidden_size"], self.config["moe_intermediate_size"]
        if not isinstance(width, int) or not isinstance(inner, int):
            return {}  # the family refuses the value
        return {"gate_up_proj": (2 * inner, width), "down_proj": (width, inner)}

    def whole(self, name: str) -> np.ndarray:
        """A whole tensor, in the stored format."""
        stored = self.tensors[name]
        return np.array(stored.read(self, [np.arange(size) for size in stored.shape], None))

    def other_files(self) -> list[AnyPath]:
        """The files without weights that are directly in the folder and that a folder of the language model has."""
        found = super().other_files()
        if self.model.multimodal is None:
            return found
        return [path for path in found if path.name not in ("config.json", INDEX, *PROCESSOR_FILES)]

    def write_descriptions(self, into: pathlib.Path) -> None:
        """Writes the config.json of the language model and the index of its files, where they are not the folder's."""
        if self.model.multimodal is None:
            return
        write_json(into / "config.json", self.config)
        if len(self.headers) > 1:
            weight_map = {tensor.name: header.file for header in self.headers for tensor in header.tensors}
            write_json(into / INDEX, {"metadata": {}, "weight_map": weight_map})


def record_of(folder: LanguageModelFolder, reading: Reading) -> dict[str, Any]:
    """What a later reader of the run should know: ignored and accepted keys, and tensors that were left out."""
    record: dict[str, Any] = {"ignored": dict(reading.ignored), "accepted": dict(reading.accepted)}
    if folder.model.multimodal is not None:
        record["language_model_of"] = folder.model.multimodal.model_type
        record["left_out"] = {k: {"tensors": n, "bytes": size} for k, (n, size) in folder.left_out.items()}
    return record
