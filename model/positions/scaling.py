"""Scaling of rotary positions: other frequencies, so that a model trained on short sequences can read longer ones.

Below, f_i = theta^(-2i/R) is the unscaled angle per token of pair i, R is the number of rotated dimensions of a head,
L is the sequence length of training (`original_length`) and s is the `factor` by which this length grows.

Each class has `frequencies(theta, size, lengths)`, the scaled angles per token: (R/2,), or (B, T or 1, R/2) where they
depend on the length of a document. It also has `amplitude`, a factor on cosines and sines: the part of a score that
comes from rotated dimensions grows by its square. Frequencies that do not depend on a length are computed on the host
in float64.

`DynamicNTK` and `LongRoPE` depend on the length of a token's document, which `lengths` counts in the traced program for
the classes that ask. It counts the document's real tokens: the rest of the batch and of the row, and padding, do not
matter. A prompt is rotated by its whole length, in however many chunks it is read. A cache keeps the rotation that keys
had when they were read, so a text whose positions change with a new token (`changes_at`) must be read again, as
model/inference/generate.py does: then decoding equals one pass over the whole text at every length.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Gives the length of each token's document, int32: (B or 1, T), or (B or 1, 1) where those of a row are alike.
DocumentLengths = Callable[[], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """f_i / s: interpolates positions into the range of training.

    Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation", equation 4.
    """

    factor: float
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(factor=self.factor)

    def frequencies(self, theta: float, size: int, lengths: DocumentLengths) -> jax.Array:
        """See the head of this file."""
        return _float32(unscaled_frequencies(theta, size) / self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NTK:
    """theta * s^(R/(R-2)) in place of theta: divides the slowest pair's frequency by s and keeps the fastest.

    bloc97 2023, "NTK-aware scaled RoPE", as written down by Peng et al. 2023, "YaRN", section 3.1.
    """

    factor: float
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(factor=self.factor)

    def frequencies(self, theta: float, size: int, lengths: DocumentLengths) -> jax.Array:
        """See the head of this file."""
        return _float32(unscaled_frequencies(theta * self.factor ** (size / (size - 2)), size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicNTK:
    """NTK with a factor that grows with the sequence: 1 up to length L, then s * length / L - (s - 1).

    emozilla 2023, "Dynamically scaled RoPE"; Peng et al. 2023, section 3.3. Past length L every new token changes the
    angles of all others: see the head of this file about caches.
    """

    factor: float
    original_length: int
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(factor=self.factor, original_length=self.original_length)

    def changes_at(self, length: int) -> bool:
        """Whether a text of `length` tokens is rotated otherwise than one that lacks its last token."""
        return length > self.original_length

    def frequencies(self, theta: float, size: int, lengths: DocumentLengths) -> jax.Array:
        """See the head of this file."""
        beyond_BT1 = jnp.maximum(lengths()[..., None] - self.original_length, 0)
        growth_BT1 = 1 + beyond_BT1.astype(jnp.float32) * (self.factor / self.original_length)
        # (theta g^(R/(R-2)))^(-2i/R), written as theta^(-2i/R) times a power of g, is exact where g is 1.
        power = _float32(-np.arange(0, size, 2) / (size - 2))
        return _float32(unscaled_frequencies(theta, size)) * growth_BT1**power


@dataclasses.dataclass(frozen=True, kw_only=True)
class YaRN:
    """Divides slow pairs by s, keeps fast pairs, with a ramp between them; also makes scores larger.

    Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models", sections 3.2 and 3.4. The
    ramp runs over i from the pair that makes beta_fast full rotations in L tokens to the pair that makes beta_slow.

    Attributes:
      factor: s.
      original_length: L.
      beta_fast, beta_slow: full rotations in L tokens; pairs with more than beta_fast keep their frequency, pairs with
        fewer than beta_slow are divided by s; if both are the same there is a step in place of the ramp, or with
        `truncate` a ramp to the next pair.
      truncate: whether the ends of the ramp are rounded outwards to whole pairs, as in the paper's code; GPT-OSS does
        not round them.
      attention_factor: the amplitude; None for the paper's 0.1 ln s + 1 (equation 22), or for the next two fields.
      mscale, mscale_all_dim: both or none: the amplitude is (0.1 mscale ln s + 1) / (0.1 mscale_all_dim ln s + 1)
        (DeepSeek-V2). DeepSeek also multiplies whole scores, including dimensions that are not rotated, by
        (0.1 mscale_all_dim ln s + 1)^2; this factor is not part of positions and belongs in the attention's `scale`.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(factor=self.factor, original_length=self.original_length)
        yield from _above_zero(
            beta_slow=self.beta_slow,
            attention_factor=self.attention_factor,
            mscale=self.mscale,
            mscale_all_dim=self.mscale_all_dim,
        )
        if self.beta_fast < self.beta_slow:
            yield "beta_fast", f"must be at least beta_slow={self.beta_slow}, got {self.beta_fast}"
        if (self.mscale is None) != (self.mscale_all_dim is None):
            given, other = ("mscale", "mscale_all_dim")[:: 1 if self.mscale_all_dim is None else -1]
            yield given, f"has no effect without {other}; give both or none"
        elif self.mscale is not None and self.attention_factor is not None:
            yield "attention_factor", "mscale and mscale_all_dim already give it; leave out these two, or this field"

    @property
    def amplitude(self) -> float:
        """The factor on cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1.0)

    def _mscale(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1

    def frequencies(self, theta: float, size: int, lengths: DocumentLengths) -> jax.Array:
        """See the head of this file."""

        def pair_with_rotations(rotations: float) -> float:
            """Returns the i, in general not an integer, at which L f_i / (2 pi) equals `rotations`."""
            return size * math.log(self.original_length / (2 * math.pi * rotations)) / (2 * math.log(theta))

        first, last = pair_with_rotations(self.beta_fast), pair_with_rotations(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = min(max(first, 0), size - 1), min(max(last, 0), size - 1)
        width = last - first if last != first else 0.001  # a step in place of a ramp, as in the paper's code
        slow = np.clip((np.arange(size // 2) - first) / width, 0, 1)
        base = unscaled_frequencies(theta, size)
        return _float32(base / self.factor * slow + base * (1 - slow))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Divides pairs of long wavelengths by s, keeps short wavelengths, with a ramp over L / wavelength between them.

    Llama Team 2024, "The Llama 3 Herd of Models", by the code released with Llama 3.1.

    Attributes:
      factor: s.
      low_frequency_factor: pairs that make fewer full rotations than this in L tokens are divided by s.
      high_frequency_factor: pairs that make more full rotations than this keep their frequency; the ramp is a step if
        both factors are the same (Llama 4).
      original_length: L.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        yield from _at_least_one(factor=self.factor, original_length=self.original_length)
        yield from _above_zero(low_frequency_factor=self.low_frequency_factor)
        if self.high_frequency_factor < self.low_frequency_factor:
            low, high = self.low_frequency_factor, self.high_frequency_factor
            yield "high_frequency_factor", f"must be at least low_frequency_factor={low}, got {high}"

    def frequencies(self, theta: float, size: int, lengths: DocumentLengths) -> jax.Array:
        """See the head of this file."""
        base, low, high = unscaled_frequencies(theta, size), self.low_frequency_factor, self.high_frequency_factor
        rotations = self.original_length * base / (2 * math.pi)
        fast = np.clip((rotations - low) / (high - low), 0, 1) if high > low else np.where(rotations < low, 0, 1)
        return _float32(base / self.factor * (1 - fast) + base * fast)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRoPE:
    """Divides each pair by its own factor, from one list for sequences up to L tokens, from another for longer ones.

    Ding et al. 2024, "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", section 3; the choice between
    two lists and the amplitude follow Phi-3 (Abdin et al. 2024). See the head of this file about caches.

    Attributes:
      short_factors, long_factors: a factor for each pair, the fastest pair first.
      original_length: L.
      factor: s: the model is meant for sequences of s * L tokens, and the amplitude is sqrt(1 + ln s / ln L).
      attention_factor: the amplitude itself, in place of `factor`.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_length: int
    factor: float | None = None
    attention_factor: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields each invalid field with its problem."""
        for name in ("short_factors", "long_factors"):
            if any(factor <= 0 for factor in getattr(self, name)):
                yield name, f"must be above 0, got {min(getattr(self, name))}"
        if self.original_length < 2:
            yield "original_length", f"must be at least 2, got {self.original_length}"
        if (self.factor is None) == (self.attention_factor is None):
            yield "attention_factor", "give either this or factor, from which this is computed"
        elif self.factor is not None:
            yield from _at_least_one(factor=self.factor)
        yield from _above_zero(attention_factor=self.attention_factor)

    @property
    def amplitude(self) -> float:
        """The factor on cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        assert self.factor is not None
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_length))

    def changes_at(self, length: int) -> bool:
        """Whether a text of `length` tokens is rotated otherwise than one that lacks its last token."""
        return length == self.original_length + 1

    def frequencies(self, theta: float, size: int, lengths: DocumentLengths) -> jax.Array:
        """See the head of this file."""
        base = unscaled_frequencies(theta, size)
        short, long = _float32(base / self.short_factors), _float32(base / self.long_factors)
        return jnp.where(lengths()[..., None] > self.original_length, long, short)


Scaling = LinearScaling | NTK | DynamicNTK | YaRN | Llama3Scaling | LongRoPE


def unscaled_frequencies(theta: float, size: int) -> np.ndarray:
    """Returns f_i, in float64."""
    return theta ** (-np.arange(0, size, 2) / size)


def _float32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def document_lengths(positions_BT: jax.Array | None, segment_ids_BT: jax.Array | None, count: int) -> jax.Array:
    """The tokens of each token's document, by the position of its last one, as `DocumentLengths` gives them.

    Args:
      positions_BT: of the tokens; None where they are counted from the first of a document.
      segment_ids_BT: the document of each token, whose tokens lie side by side; None where a row is one.
      count: T.
    """
    if segment_ids_BT is None:
        return jnp.full((1, 1), count) if positions_BT is None else jnp.max(positions_BT, axis=1, keepdims=True) + 1
    index_T = jnp.arange(count, dtype=jnp.int32)
    boundary_BT = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    is_last_BT, is_first_BT = (jnp.pad(boundary_BT, ((0, 0), at), constant_values=True) for at in ((0, 1), (1, 0)))
    last_BT = jax.lax.cummin(jnp.where(is_last_BT, index_T, count), axis=1, reverse=True)
    if positions_BT is None:
        return last_BT + 1 - jax.lax.cummax(jnp.where(is_first_BT, index_T, 0), axis=1)
    return jnp.take_along_axis(jnp.broadcast_to(positions_BT, segment_ids_BT.shape), last_BT, axis=1) + 1


def _at_least_one(**fields: float) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value < 1:
            yield name, f"must be at least 1, got {value}"


def _above_zero(**fields: float | None) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value is not None and value <= 0:
            yield name, f"must be above 0, got {value}"
