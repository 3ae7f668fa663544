"""Accelerators by their data sheets, and clusters of them: slices of a TPU torus, or nodes of GPUs.

Peaks are dense, without sparsity. A rate is in units a second: operations (a multiplication with its addition counts as
2) or bytes. The rate of a link is that of one direction. TPU data sheets give the sum over all links and both
directions; NVIDIA's give both directions of NVLink.
"""

import dataclasses
import math

from model.errors import UserError
from model.options.words import nearest

GIB, GB, TERA = 2**30, 10**9, 10**12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Torus:
    """The interconnect of a TPU slice: every chip has two neighbours along each dimension.

    Attributes:
      dimensions: 2 or 3.
      link: bytes a second of one link in one direction.
      ring: a dimension closes to a ring if its size is a multiple of this; a shorter one is a line.
      largest: the most chips of a slice.
    """

    dimensions: int
    link: float
    ring: int
    largest: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switched:
    """The interconnect of GPUs: a switch inside a domain, a network between domains.

    Attributes:
      link: bytes a second of one GPU to the others of its domain, in one direction.
      domain: the most GPUs that one switch connects.
    """

    link: float
    domain: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator.

    Attributes:
      name: as topologies name it.
      kinds: as JAX names its devices (`device_kind`), or a part of that name.
      family: chips of a family share the efficiencies in efficiency.py.
      peak: number format -> operations a second; a format that the matrix unit lacks is not named.
      hbm: bytes of memory.
      hbm_rate: bytes a second between memory and chip.
      interconnect: the fast network.
      network: bytes a second of one chip to the slow network (between slices or domains), in one direction.
      matrix_unit: the sides of the matrix unit are padded to multiples of this; 1 where no padding shows.
      devices: JAX devices of one chip; a mesh counts devices.
      watts: the power limit of a GPU.
      float32: operations a second of what JAX multiplies float32 in by default: TF32; None for bf16, as on TPUs.
      source: the data sheet.
    """

    name: str
    kinds: tuple[str, ...]
    family: str
    peak: dict[str, float]
    hbm: float
    hbm_rate: float
    interconnect: Torus | Switched
    network: float
    matrix_unit: int = 1
    devices: int = 1
    watts: float | None = None
    float32: float | None = None
    source: str

    @property
    def kind(self) -> str:
        """The word tpu (chips on a torus) or gpu, by which constants of efficiency.py are named."""
        return "tpu" if isinstance(self.interconnect, Torus) else "gpu"

    def rate(self, number_format: str) -> float:
        """Returns operations a second. Raises UserError for a format that the chip does not multiply."""
        if number_format not in self.peak:
            known = ", ".join(self.peak)
            raise UserError(f"{self.name} has no matrix products in {number_format!r}; it has {known}")
        return self.peak[number_format]


def _peak(bf16: float, fp8: float | None = None, int8: float | None = None) -> dict[str, float]:
    given = {"bf16": bf16, "fp8": fp8, "int8": int8}
    return {name: value * TERA for name, value in given.items() if value is not None}


_CLOUD = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
_CHIPS = (
    Chip(
        name="v4",
        kinds=("TPU v4",),
        family="v4",
        peak=_peak(275, int8=275),
        hbm=32 * GIB,
        hbm_rate=1228 * GB,
        interconnect=Torus(dimensions=3, link=50 * GB, ring=4, largest=4096),
        network=50 / 8 * GB,  # not in the data sheet: taken to be that of v5p
        matrix_unit=128,
        source=f"{_CLOUD}v4",
    ),
    Chip(
        name="v5e",
        kinds=("TPU v5 lite", "TPU v5e"),
        family="v5e",
        peak=_peak(197, int8=393),
        hbm=16 * GIB,
        hbm_rate=819 * GB,
        interconnect=Torus(dimensions=2, link=50 * GB, ring=16, largest=256),
        network=25 / 8 * GB,
        matrix_unit=128,
        source=f"{_CLOUD}v5e",
    ),
    Chip(
        name="v5p",
        kinds=("TPU v5p", "TPU v5"),
        family="v5p",
        peak=_peak(459, fp8=459, int8=918),
        hbm=95 * GIB,
        hbm_rate=2765 * GB,
        interconnect=Torus(dimensions=3, link=100 * GB, ring=4, largest=8960),
        network=50 / 8 * GB,
        matrix_unit=128,
        source=f"{_CLOUD}v5p",
    ),
    Chip(
        name="v6e",
        kinds=("TPU v6 lite", "TPU v6e"),
        family="v6e",
        peak=_peak(918, fp8=918, int8=1836),
        hbm=32 * GIB,
        hbm_rate=1638 * GB,
        interconnect=Torus(dimensions=2, link=100 * GB, ring=16, largest=256),
        network=100 / 8 * GB,
        matrix_unit=256,
        source=f"{_CLOUD}v6e",
    ),
    Chip(
        name="v7x",
        kinds=("TPU7x", "TPU v7x"),
        family="v7x",
        peak=_peak(2307, fp8=4614),
        hbm=192 * GIB,
        hbm_rate=7380 * GB,
        interconnect=Torus(dimensions=3, link=100 * GB, ring=4, largest=9216),
        network=100 / 8 * GB,
        matrix_unit=256,
        devices=2,
        source=f"{_CLOUD}tpu7x",
    ),
    Chip(
        name="a100",
        kinds=("A100",),
        family="ampere",
        peak=_peak(312, int8=624),
        hbm=80 * GB,
        hbm_rate=2039 * GB,
        interconnect=Switched(link=300 * GB, domain=8),
        network=25 * GB,
        watts=400,
        float32=156 * TERA,
        source=f"{_NVIDIA}a100/ (80 GB SXM; DGX A100: one 200 Gbit/s adapter a GPU)",
    ),
    Chip(
        name="h100",
        kinds=("H100",),
        family="hopper",
        peak=_peak(989.5, fp8=1979, int8=1979),
        hbm=80 * GB,
        hbm_rate=3350 * GB,
        interconnect=Switched(link=450 * GB, domain=8),
        network=50 * GB,
        watts=700,
        float32=494.5 * TERA,
        source=f"{_NVIDIA}h100/ (SXM; DGX H100: one 400 Gbit/s adapter a GPU)",
    ),
    Chip(
        name="h200",
        kinds=("H200",),
        family="hopper",
        peak=_peak(989.5, fp8=1979, int8=1979),
        hbm=141 * GB,
        hbm_rate=4800 * GB,
        interconnect=Switched(link=450 * GB, domain=8),
        network=50 * GB,
        watts=700,
        float32=494.5 * TERA,
        source=f"{_NVIDIA}h200/ (SXM; DGX H200: one 400 Gbit/s adapter a GPU)",
    ),
    Chip(
        name="b200",
        kinds=("B200",),
        family="blackwell",
        peak=_peak(2250, fp8=4500, int8=4500),
        hbm=180 * GB,
        hbm_rate=8000 * GB,
        interconnect=Switched(link=900 * GB, domain=8),
        network=50 * GB,
        watts=1000,
        float32=1100 * TERA,
        source=f"{_NVIDIA}dgx-b200/ (one 400 Gbit/s adapter a GPU)",
    ),
    Chip(
        name="gb200",
        kinds=("GB200",),
        family="blackwell",
        peak=_peak(2500, fp8=5000, int8=5000),
        hbm=186 * GB,
        hbm_rate=8000 * GB,
        interconnect=Switched(link=900 * GB, domain=72),
        network=50 * GB,
        watts=1200,
        float32=1250 * TERA,
        source=f"{_NVIDIA}gb200-nvl72/ (one 400 Gbit/s adapter a GPU)",
    ),
)
CHIPS = {chip.name: chip for chip in _CHIPS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Chips and how they are connected.

    Attributes:
      chip: the kind of all chips.
      shape: TPU: the sizes of the torus of one slice. GPU: nodes, GPUs of a node.
      slices: TPU: the number of slices, which the slow network connects.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """The number of chips in all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def is_tpu(self) -> bool:
        """Whether a torus connects the chips."""
        return self.chip.kind == "tpu"

    @property
    def topology(self) -> str:
        """The chips of one slice, or all nodes, as `parse_cluster` reads them."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def __str__(self) -> str:
        return self.topology if self.slices == 1 else f"{self.slices} slices of {self.topology}"


def _unknown(name: str) -> str:
    """Returns the words for a chip that is not known: the nearest one, if one is near, and all that are."""
    hint, known = nearest(name, CHIPS), f"known: {', '.join(sorted(CHIPS))}"
    return f"{name!r} is no known chip; {known if hint == known else f'{hint} {known}'}"


def parse_cluster(text: str, slices: int = 1) -> Cluster:
    """Returns the cluster of a text such as v5p:4x4x4 (a torus) or h100:8x8 (nodes x GPUs of a node).

    Raises UserError for any other text, for an unknown chip and for a shape that the chip cannot have.
    """
    name, colon, sizes = text.strip().partition(":")
    if name not in CHIPS:
        raise UserError(f"topology {text!r}: {_unknown(name)}, as in v5p:4x4x4")
    chip = CHIPS[name]
    example = "8x8x8" if chip.name in ("v4", "v5p", "v7x") else "16x16" if chip.family.startswith("v") else "8x8"
    parts = sizes.split("x")
    if not colon or not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
        raise UserError(f"topology {text!r}: expected sizes from 1 after the chip, as in {name}:{example}")
    shape = tuple(map(int, parts))
    if slices < 1:
        raise UserError(f"slices: must be at least 1, got {slices}")
    _check_shape(chip, shape, slices, text, example)
    return Cluster(chip=chip, shape=shape, slices=slices)


def power_limited(chip: Chip, watts: float) -> Chip:
    """Returns a GPU under a lower power limit; its clock is taken to follow the square root of the power."""
    if chip.watts is None or watts >= chip.watts:
        return chip
    slower = math.sqrt(watts / chip.watts)
    return dataclasses.replace(chip, peak={name: rate * slower for name, rate in chip.peak.items()}, watts=watts)


def _check_shape(chip: Chip, shape: tuple[int, ...], slices: int, text: str, example: str) -> None:
    network = chip.interconnect
    wanted = network.dimensions if isinstance(network, Torus) else 2
    if len(shape) != wanted:
        meaning = f"a torus of {wanted} dimensions" if isinstance(network, Torus) else "nodes x GPUs of a node"
        raise UserError(f"topology {text!r}: {chip.name} has {meaning}, as in {chip.name}:{example}")
    if isinstance(network, Switched):
        if slices > 1:
            raise UserError(f"topology {text!r}: GPUs come in nodes, not in slices; give all nodes in one shape")
        if shape[1] > network.domain:
            raise UserError(
                f"topology {text!r}: a {chip.name} node has at most {network.domain} GPUs, got {shape[1]}; "
                f"write nodes x GPUs of a node, as in {chip.name}:{example}"
            )
    elif math.prod(shape) > network.largest:
        raise UserError(
            f"topology {text!r}: {math.prod(shape):,} chips, and the largest slice of {chip.name} has "
            f"{network.largest:,}; use several slices"
        )


def cluster_of(name: str, chips: int, slices: int = 1) -> Cluster:
    """Returns the usual cluster of a number of chips: a torus close to a cube or a square, or full nodes.

    Raises UserError for an unknown chip, and for a number that slices do not divide.
    """
    if name not in CHIPS:
        raise UserError(_unknown(name))
    if chips < 1 or slices < 1 or chips % slices:
        raise UserError(f"{chips} chips of {name} do not split into {slices} slices of equal size")
    chip = CHIPS[name]
    if isinstance(chip.interconnect, Switched):
        node = math.gcd(chips, 8 if chip.interconnect.domain == 8 else 64)
        return Cluster(chip=chip, shape=(chips // node, node))
    return Cluster(chip=chip, shape=_near_cube(chips // slices, chip.interconnect.dimensions), slices=slices)


def _near_cube(number: int, dimensions: int) -> tuple[int, ...]:
    """Splits a number into factors, in increasing order, so that the largest is as small as it can be."""
    if dimensions == 1:
        return (number,)
    divisors = [d for d in range(1, number + 1) if number % d == 0 and d**dimensions <= number]
    choices = [(d, *_near_cube(number // d, dimensions - 1)) for d in divisors]
    return min(choices, key=lambda shape: (max(shape), sum(shape)))
