"""SAELens' files of a trained autoencoder: cfg.json and sae_weights.safetensors, written and read.

Weights are for activations as the model makes them. SAELens has ReLU and JumpReLU transcoders; one of another
architecture has a name that only Cairn knows. The entry `cairn` of the metadata holds the tap, the layer and the model.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.errors import UserError
from model.options.json import option_from_json, to_json
from model.options.words import nearest
from train.files.files import atomic_folder, read_json, write_json
from train.inspection.features.autoencoders.gated import Gated
from train.inspection.features.autoencoders.jump_relu import JumpReLU
from train.inspection.features.autoencoders.relu import ReLU
from train.inspection.features.autoencoders.top_k import TopK
from train.inspection.features.training.folder import Source, require_source
from train.inspection.features.training.settings import Autoencoder, Site
from train.inspection.features.training.stream import taps_of
from train.run.loading import LoadedRun

# Names in TransformerLens of the activations that it has too.
HOOKS = {
    "embedding": "hook_embed",
    "query": "blocks.{}.attn.hook_rot_q",
    "key": "blocks.{}.attn.hook_rot_k",
    "value": "blocks.{}.attn.hook_v",
    "mixer_heads": "blocks.{}.attn.hook_z",
    "mixer_output": "blocks.{}.hook_attn_out",
    "ffn_hidden": "blocks.{}.mlp.hook_post",
    "ffn_output": "blocks.{}.hook_mlp_out",
    "block_output": "blocks.{}.hook_resid_post",
    "final_norm": "ln_final.hook_normalized",
}
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trained:
    """An autoencoder that was read.

    Attributes:
      option: the autoencoder; its architecture is that of its use after training.
      params: its parameters, for activations as the model makes them.
      into, out: the places that it reads and writes; None if the file does not say.
      source: the model that it was trained on; None if the file does not say.
    """

    option: Autoencoder
    params: Arrays
    into: Site | None
    out: Site | None
    source: Source | None


def hook_name(site: Site) -> str:
    """The name of a place in TransformerLens; "cairn.TAP.LAYER" where it has none."""
    return HOOKS[site.tap].format(site.layer) if site.tap in HOOKS else f"cairn.{site.tap}.{site.layer}"


def write_autoencoder(
    folder: pathlib.Path,
    option: Autoencoder,
    params: Arrays,
    sites: tuple[Site, Site],
    source: Source,
    context_size: int,
) -> None:
    """Writes an autoencoder with the parameters of `state.folded`; replaces an earlier one."""
    published = option.architecture.published(params)
    into, out = sites
    architecture = published.architecture
    if option.is_transcoder:
        architecture = "transcoder" if architecture == "standard" else f"{architecture}_transcoder"
    cairn = {
        "option": to_json(option),
        "input": list(into),
        "output": list(out),
        "source": dataclasses.asdict(source),
    }
    metadata: dict[str, Any] = {
        "model_name": source.run,
        "hook_name": hook_name(into),
        "context_size": context_size,
        "cairn": cairn,
    }
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": int(params["encoder"].shape[0]),
        "d_sae": option.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not option.is_transcoder,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if hook_name(into).endswith("_z") else "none",
        **published.settings,
    }
    if option.is_transcoder:
        config |= {"d_out": int(params["decoder"].shape[1])}
        metadata |= {"hook_name_out": hook_name(out)}
    arrays = {"W_enc": params["encoder"], "W_dec": params["decoder"], "b_dec": params["decoder_bias"]}
    arrays |= published.arrays
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            path.unlink()
    with atomic_folder(folder) as part:
        whole = {name: np.ascontiguousarray(x, np.float32) for name, x in arrays.items()}
        save_file(whole, part / "sae_weights.safetensors")
        write_json(part / "cfg.json", config | {"metadata": metadata})


def read_autoencoder(folder: pathlib.Path) -> Trained:
    """Reads the files of SAELens, or of Cairn. Raises UserError for what is damaged or has no equal here."""
    path = folder / "cfg.json"
    if not path.is_file():
        raise UserError(f"{folder} is no folder of an autoencoder: it has no cfg.json and sae_weights.safetensors")
    config = read_json(path, schema={"d_in": int, "d_sae": int})
    arrays: Arrays = {}
    try:
        arrays = {name: x.astype(np.float32) for name, x in load_file(folder / "sae_weights.safetensors").items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}/sae_weights.safetensors cannot be read: {error}; get it again") from None
    metadata = config.get("metadata")
    cairn = metadata.get("cairn") if isinstance(metadata, dict) else None
    architecture = str(config.get("architecture", "standard"))
    is_transcoder = architecture.endswith("transcoder")
    kind = architecture.removesuffix("transcoder").removesuffix("_") or "standard"
    if kind not in _READERS:
        raise UserError(f"{path}: architecture {architecture!r} is not known here; {nearest(kind, _READERS)}")
    if (normalization := config.get("normalize_activations", "none")) != "none":
        raise UserError(
            f"{path}: normalize_activations={normalization!r}; expected 'none': fold the scale into the weights "
            "(fold_activation_norm_scaling_factor in SAELens) and save it again"
        )
    _require_shapes(path, config, arrays, is_transcoder)
    try:
        if not is_transcoder and not config.get("apply_b_dec_to_input", True):
            _subtract_bias(arrays, kind)
        if config.get("rescale_acts_by_decoder_norm", False):
            norms = np.linalg.norm(arrays["W_dec"], axis=1)
            arrays |= {"W_enc": arrays["W_enc"] * norms, "b_enc": arrays["b_enc"] * norms}
            arrays |= {"W_dec": arrays["W_dec"] / norms[:, None]}
        sparse, own = _READERS[kind](config, arrays)
    except KeyError as error:
        raise UserError(f"{folder}/sae_weights.safetensors has no {error.args[0]} of a {kind} autoencoder") from None
    params = {"encoder": arrays["W_enc"], "decoder": arrays["W_dec"], "decoder_bias": arrays["b_dec"], **own}
    if cairn is not None:
        try:
            written: Autoencoder = option_from_json(Autoencoder, cairn["option"])
            into, out, source = Site(*cairn["input"]), Site(*cairn["output"]), Source(**cairn["source"])
        except (KeyError, TypeError, UserError) as error:
            raise UserError(f"{path}: metadata.cairn is damaged ({error}); train or copy it again") from None
        return Trained(dataclasses.replace(written, architecture=sparse), params, into, out, source)
    option = Autoencoder(
        name=folder.name, width=config["d_sae"], architecture=sparse, output_tap="ffn_output" if is_transcoder else None
    )
    return Trained(option, params, None, None, None)


def require_fit(trained: Trained, run: LoadedRun, where: pathlib.Path, into: Site, out: Site) -> None:
    """Raises UserError when an autoencoder does not belong to these places of a run's model."""
    if trained.source is not None:
        require_source(trained.source, run, where)
    for name, own, asked in (("reads", trained.into, into), ("writes", trained.out, out)):
        if own is not None and own != asked:
            raise UserError(f"{where} {name} {own.text}, and {asked.text} was asked for; give that tap and layer")
    taps_of((into, out))


def _require_shapes(path: pathlib.Path, config: dict[str, Any], arrays: Arrays, is_transcoder: bool) -> None:
    width, inputs = config["d_sae"], config["d_in"]
    outputs = config.get("d_out", inputs) if is_transcoder else inputs
    needed = {"W_enc": (inputs, width), "W_dec": (width, outputs), "b_dec": (outputs,)}
    of_features = ("b_enc", "b_gate", "b_mag", "r_mag", "threshold")
    for name, shape in (needed | {name: (width,) for name in of_features if name in arrays}).items():
        found = arrays[name].shape if name in arrays else None
        if found != shape:
            raise UserError(
                f"{path.parent}: {name} has shape {found}; expected {shape} by cfg.json; get the files again"
            )


def _subtract_bias(arrays: Arrays, kind: str) -> None:
    """Changes biases as if the decoder bias were subtracted from inputs: W x + b = W (x - c) + (b + W c)."""
    shift = arrays["b_dec"] @ arrays["W_enc"]
    if kind == "gated":
        arrays["b_gate"] = arrays["b_gate"] + shift
        arrays["b_mag"] = arrays["b_mag"] + shift * np.exp(arrays["r_mag"])
    else:
        arrays["b_enc"] = arrays["b_enc"] + shift


def _read_relu(config: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    if (activation := config.get("activation_fn_str", "relu")) != "relu":
        raise UserError(f"cfg.json: activation_fn_str={activation!r}; expected relu, or architecture='topk'")
    return ReLU(), {"encoder_bias": arrays["b_enc"]}


def _read_gated(config: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    names = {"gate_bias": "b_gate", "magnitude_bias": "b_mag", "log_magnitude": "r_mag"}
    return Gated(), {ours: arrays[theirs] for ours, theirs in names.items()}


def _read_jump_relu(config: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    with np.errstate(divide="ignore"):
        return JumpReLU(), {"encoder_bias": arrays["b_enc"], "log_threshold": np.log(arrays["threshold"])}


def _read_top_k(config: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
    k = config.get("k")
    if not isinstance(k, int):
        raise UserError(f"cfg.json: k={k!r} of a topk autoencoder; expected a whole number")
    return TopK(k=k), {"encoder_bias": arrays["b_enc"]}


_READERS: dict[str, Callable[[dict[str, Any], Arrays], tuple[Any, Arrays]]] = {
    "standard": _read_relu,
    "gated": _read_gated,
    "jumprelu": _read_jump_relu,
    "topk": _read_top_k,
}
