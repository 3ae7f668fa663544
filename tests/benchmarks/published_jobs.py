"""Published training speeds as jobs of the planner: rows of pod_speeds.csv with shapes of model_shapes.json.

Both files are described in the README beside them. A row says what it says in columns; some facts stand in `notes`
alone (micro-batches, virtual stages, capacity, attention without a kernel) and are read from there.
"""

import csv
import dataclasses
import json
import pathlib
import re

from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.attention.patterns import Chunked, Everything, SlidingWindow
from model.config import ModelConfig
from model.errors import UserError
from model.feedforward.dispatch import Capacity, Dropless
from model.feedforward.experts import Experts, Shared
from model.feedforward.mlp import MLP, Gated
from model.layers import Except
from model.vocabulary.embedding import Tied, Untied
from train.parallel.planner.chips import Chip, Cluster, cluster_of, power_limited
from train.parallel.planner.job import Job, Ways
from train.parallel.planner.work import KEPT, ModelWork, work_of

AXIS_NAMES = {"fsdp_transpose": "fsdp", "pipeline": "stage"}
# Names of products in the `remat` column -> names of `work.KEPT`.
PRODUCTS = {
    "query_proj": ("query",),
    "key_proj": ("key",),
    "value_proj": ("value",),
    "qkv_proj": ("query", "key", "value"),
    "context": ("attention",),
    "out_proj": ("mixer_output",),
    "mlpwi_0": ("ffn_gate",),
    "mlpwi_1": ("ffn_up",),
    "mlpwi": ("ffn_gate", "ffn_up"),
    "mlpwo": ("ffn_output",),
}
QKV = frozenset({"query", "key", "value"})
ALL, ALL_BUT_ATTENTION = frozenset(KEPT), frozenset(KEPT) - {"attention"}
# Policies by name, in lower case, as their projects define them.
POLICIES = {
    "": ALL,  # rows that name no policy: Megatron keeps everything that fits
    "none": ALL,
    "full": frozenset(),
    "minimal": ALL_BUT_ATTENTION,
    "minimal_offloaded": ALL_BUT_ATTENTION,
    "minimal_flash": ALL,
    "minimal_with_context": ALL,
    "save_dot_with_no_batch_dim": ALL_BUT_ATTENTION,
    "save_dot_except_mlp": QKV | {"mixer_output"},
    "save_dot_except_mlpwi": QKV | {"mixer_output", "ffn_output"},
    "save_dot_with_context_except_mlp": QKV | {"attention", "mixer_output"},
    "save_out_proj": frozenset({"mixer_output"}),
    "save_qkv_proj": QKV,
    "qkv_proj_offloaded": QKV,
    "activation_checkpointing: true": frozenset(),
    "activation_checkpointing: false": ALL,
    "selective": frozenset({"key", "attention", "mixer_output", "ffn_up"}),  # torchtitan: every second product
}
FORMATS = {"bf16": "bf16", "fp8": "fp8", "int8": "int8"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A published speed and its job.

    Attributes:
      name, model, chip, family, source: as the file says; family is dense or moe.
      seconds: of a step, published; derived from tokens/s or the model FLOPs where only those are.
      job: the planner's job.
    """

    name: str
    model: str
    chip: str
    family: str
    source: str
    seconds: float
    job: Job


def read_rows(path: pathlib.Path) -> tuple[list[Row], list[str]]:
    """Reads a file of speeds and the shapes beside it; returns the rows, and a line for each row left out."""
    shapes_path = path.parent / "model_shapes.json"
    for needed in (path, shapes_path):
        if not needed.is_file():
            raise UserError(f"{needed} is not there; give the path of pod_speeds.csv, with model_shapes.json beside it")
    shapes = json.loads(shapes_path.read_text(encoding="utf-8"))
    rows, left_out = [], []
    with path.open(encoding="utf-8", newline="") as file:
        for given in csv.DictReader(file):
            try:
                rows.append(row_of(given, shapes))
            except UserError as error:
                left_out.append(f"{given.get('name')}: {error}")
    return rows, left_out


def row_of(given: dict[str, str], shapes: dict[str, dict]) -> Row:
    """Returns a row. Raises UserError for a row that cannot be predicted, with the reason."""
    try:
        job = job_of_row(given, shapes)
    except (KeyError, ValueError) as error:  # a column that is missing, or is no number
        raise UserError(f"cannot be read ({type(error).__name__}: {error})") from None
    return Row(
        name=given["name"],
        model=given["model"],
        chip=given["chip"],
        family=given["family"],
        source=given["source"],
        seconds=published_seconds(given, job),
        job=job,
    )


def published_seconds(given: dict[str, str], job: Job) -> float:
    """The published seconds of a step; from tokens/s, or from MFU with full attention, where there are none."""
    if given["step_seconds"]:
        return float(given["step_seconds"])
    if given["tokens_per_s_per_chip"]:
        return job.tokens / (job.cluster.chips * float(given["tokens_per_s_per_chip"]))
    if not given["mfu_percent"]:
        raise UserError("gives neither the time of a step nor tokens a second nor MFU")
    pairs = sum(layer.repeats * layer.attention.flops for layer in job.work.layers if layer.attention)
    flops = 3 * (job.work.forward_flops + pairs) * job.tokens / job.cluster.chips  # full attention counts pairs twice
    return flops / (float(given["mfu_percent"]) / 100 * job.cluster.chip.rate("bf16"))


def job_of_row(given: dict[str, str], shapes: dict[str, dict]) -> Job:
    """Returns the job of a row."""
    if given["model"] not in shapes:
        raise UserError(f"model_shapes.json has no model {given['model']!r}")
    if given["precision"] not in FORMATS:
        raise UserError(f"precision {given['precision']!r} is not known; known: {', '.join(FORMATS)}")
    notes, length = given["notes"], int(given["sequence_length"])
    cluster = _cluster(given)
    ways, dcn = _ways(given, cluster)
    batch = int(given["global_batch_sequences"])
    capacity = _number(r"capacity_factor (\d+(?:\.\d+)?)", notes)
    return Job(
        work=_work(json.dumps(shapes[given["model"]], sort_keys=True), length, capacity),
        cluster=cluster,
        ways=ways,
        batch=batch,
        microbatches=_microbatches(given, batch, ways),
        virtual_stages=_virtual_stages(notes),
        across_slices=dcn,
        kept=_kept(given["remat"]),
        number_format=FORMATS[given["precision"]],
        attention=_attention(given),
        parameter_bytes=2 if "bf16 weights" in notes else 4,
        gradient_bytes=2 if cluster.is_tpu else 4,
        moments=0 if "sgd" in notes else 2,
        logits_limit=1 << 40,
    )


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return float(found[1]) if found else None


def _cluster(given: dict[str, str]) -> Cluster:
    name, slices = given["chip"], int(given["slices"] or 1)
    cluster = cluster_of(name, int(given["chips"]), slices)
    if topology := given["topology"].removeprefix("nodes="):
        cluster = dataclasses.replace(cluster, shape=tuple(map(int, topology.split("x"))))
    return dataclasses.replace(cluster, chip=_limited(cluster.chip, given["notes"]))


def _ways(given: dict[str, str], cluster: Cluster) -> tuple[Ways, str]:
    """Returns the mesh in chips, and the axis that spans slices.

    GPU rows count expert groups inside the data and tensor ranks; here the expert axis is one of its own.
    """
    sizes, dcn = dict.fromkeys(("data", "fsdp", "tensor", "context", "expert", "stage"), 1), "data"
    for item in filter(None, given["parallelism"].split(",")):
        name, _, size = item.partition("=")
        if name.startswith("dcn_"):
            dcn = name = AXIS_NAMES.get(name.removeprefix("dcn_"), name.removeprefix("dcn_"))
        sizes[AXIS_NAMES.get(name, name)] *= int(size)
    if not cluster.is_tpu:
        left = sizes["expert"]
        for name in ("data", "fsdp", "tensor"):
            shared = _common(left, sizes[name])
            sizes[name], left = sizes[name] // shared, left // shared
        sizes["expert"] //= left
    ways = Ways(**sizes)
    if ways.chips == cluster.chips * cluster.chip.devices:
        largest = max(("fsdp", "data"), key=lambda name: sizes[name])
        sizes[largest] //= cluster.chip.devices
        ways = Ways(**sizes)
    if ways.chips != cluster.chips:
        raise UserError(f"the mesh {given['parallelism']} does not multiply to {cluster.chips} chips")
    return ways, dcn


def _common(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _microbatches(given: dict[str, str], batch: int, ways: Ways) -> int:
    """Parts of a rank's rows: as stated; in a pipeline one row each, and in torchtitan as many as stages (its default)."""
    notes, rows = given["notes"], max(1, batch // ways.rows)
    if count := _number(r"gradient accumulation (\d+)", notes):
        return int(count)
    if size := _number(r"(?:microbatch|local batch) (\d+)", notes):
        return max(1, rows // int(size))
    if ways.stage == 1:
        return 1
    return min(rows, ways.stage) if given["source"].startswith("pytorch/torchtitan") else rows


def _virtual_stages(notes: str) -> int:
    """Chunks of layers of a stage: as stated; 1 in a plain schedule, 2 if it is interleaved, 4 if nothing is said."""
    if count := _number(r"virtual pipeline (\d+)", notes):
        return int(count)
    return 2 if "interleaved" in notes.lower() else 1 if "1F1B" in notes else 4


def _attention(given: dict[str, str]) -> str:
    """The attention kernel. Plain PyTorch projects call `scaled_dot_product_attention`, which is FlashAttention-2."""
    if "no flash attention" in given["notes"]:
        return "arrays"
    return "older tiles" if given["source"].startswith(("pytorch/torchtitan", "KempnerInstitute/")) else "tiles"


def _limited(chip: Chip, notes: str) -> Chip:
    """The chip of a row whose notes name another power limit or memory."""
    if watts := _number(r"at (\d+) W", notes):
        chip = power_limited(chip, watts)
    if rate := _number(r"(\d+(?:\.\d+)?) TB/s", notes):
        chip = dataclasses.replace(chip, hbm_rate=rate * 1e12)
    return chip


def _kept(remat: str) -> frozenset[str]:
    """The products that a policy keeps, by its name or by the products that its text names."""
    name = remat.split(" (")[0].strip().lower()
    if name in POLICIES:
        return POLICIES[name]
    if policy := re.search(r"\(policy (\w+)\)", remat):
        return POLICIES.get(policy[1], frozenset())
    if "feed-forward names" in remat:
        return ALL
    if "q,k,v,context,o" in remat:
        return QKV | {"attention", "mixer_output"}
    kept: set[str] = set()
    for part in remat.removeprefix("custom:").split(";"):
        if "recompute" not in part:
            words = re.findall(r"[a-z_0-9]+", part)
            kept.update(product for word in words for product in PRODUCTS.get(word, ()))
    return frozenset(kept)


# ------------------------------------------------------------------------------------------------------------- shapes

_WORKS: dict[tuple[str, int, float | None], ModelWork] = {}


def _work(shape: str, length: int, capacity: float | None) -> ModelWork:
    key = (shape, length, capacity)
    if key not in _WORKS:
        _WORKS[key] = work_of(config_of(json.loads(shape), length, capacity), length)
    return _WORKS[key]


def config_of(shape: dict, length: int, capacity: float | None = None) -> ModelConfig:
    """Returns a model of a shape, with all that matters for its cost.

    Per-layer embeddings of Gemma 4 are left out: look-ups, with few operations.
    """
    mixer = _mixer(shape)
    ffn, exceptions = _feedforward(shape, capacity), []
    if first := shape.get("first_dense_layers"):
        exceptions.append(Except(layers=f":{first}", ffn=_dense(shape, shape["dense_ffn"])))
    elif shape.get("moe_every", 1) > 1:
        exceptions.append(Except(layers=f"::{shape['moe_every']}", ffn=_dense(shape, shape["dense_ffn"])))
    if (shared := shape.get("kv_shared_layers")) and "double-width" in shape.get("note", ""):
        exceptions.append(Except(layers=f"-{shared}:", ffn=_dense(shape, 2 * shape["ffn"])))
    pattern = shape.get("attention_pattern", "")
    if every := _period(pattern):
        mixer = dataclasses.replace(mixer, pattern=_local_pattern(shape, pattern))
        exceptions.append(Except(layers=f"{every - 1}::{every}", mixer=_global_mixer(shape)))
    return ModelConfig(
        vocab_size=shape["vocab"],
        context_length=length,
        num_layers=shape["layers"],
        width=shape["width"],
        mixer=mixer,
        ffn=ffn,
        exceptions=tuple(exceptions),
        unembedding=Tied() if shape["tied"] else Untied(),
    )


def _period(pattern: str) -> int | None:
    """The number of layers after which an attention pattern repeats; its last layer sees everything."""
    if found := re.match(r"(\d+) sliding, (\d+) (?:global|full)", pattern):
        return int(found[1]) + int(found[2])
    if found := re.search(r"every (\d+)(?:st|nd|rd|th) layer full", pattern):
        return int(found[1])
    return None


def _local_pattern(shape: dict, pattern: str) -> SlidingWindow | Chunked:
    if found := re.match(r"chunked (\d+)", pattern):
        return Chunked(size=int(found[1]))
    return SlidingWindow(size=shape["sliding_window"])


def _mixer(shape: dict) -> GroupedQuery | Latent:
    if "mla" in shape:
        mla = shape["mla"]
        return Latent(
            num_heads=shape["heads"],
            kv_rank=mla["kv_lora_rank"],
            query_rank=mla["q_lora_rank"] or None,
            head_dim=mla["qk_nope_head_dim"],
            rotary_head_dim=mla["qk_rope_head_dim"],
            value_head_dim=mla["v_head_dim"],
        )
    return GroupedQuery(num_heads=shape["heads"], num_kv_heads=shape["kv_heads"], head_dim=shape["head_dim"])


def _global_mixer(shape: dict) -> GroupedQuery | Latent:
    mixer = _mixer(shape)
    if "global_head_dim" not in shape:
        return dataclasses.replace(mixer, pattern=Everything())
    heads = shape.get("global_kv_heads", shape["kv_heads"])
    return dataclasses.replace(mixer, head_dim=shape["global_head_dim"], num_kv_heads=heads)


def _dense(shape: dict, width: int) -> MLP | Gated:
    return Gated(width=width) if shape["gated"] else MLP(width=width)


def _feedforward(shape: dict, capacity: float | None) -> MLP | Gated | Experts:
    if not shape["experts"]:
        return _dense(shape, shape["ffn"])
    shared = shape.get("shared_experts", 0)
    width = shape.get("shared_ffn", shape["ffn"])
    return Experts(
        num_experts=shape["experts"],
        top_k=shape["top_k"],
        expert=_dense(shape, shape["ffn"]),
        dispatch=Dropless() if capacity is None else Capacity(factor=capacity),
        shared=Shared(ffn=_dense(shape, shared * width)) if shared else None,
    )
