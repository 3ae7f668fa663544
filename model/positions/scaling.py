"""How rotary positions trained on short sequences are made to take longer ones: other frequencies, by the pair.

Below, f_i = theta^(-2i/R) is the angle per token of pair i, unscaled, R the number of dimensions of a head that turn,
L the sequence length that the model was trained on (`original_length`) and s the `factor` by which it grows.

Each class has `frequencies(theta, size, lengths)`, the scaled angles per token: (R/2,), or (B, T or 1, R/2) where they
depend on the length of a document; and `amplitude`, a factor on cosines and sines: the part of a score that comes from
dimensions that turn grows by its square. Fixed ones are computed on the host in float64.

Two depend on the length of a token's document, which `lengths` counts in the traced program for those that ask. It is
that of the document's real tokens: what else is in the batch or in the row, and how much padding, does not matter. A
prompt is turned by its whole length, in however many chunks it is read. With a cache, keys stay as they were turned
when they were read, while later queries turn by the length that the text has then: past `original_length`, decoding
token by token is not the same function as one pass over the whole.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Gives the length of each token's document, int32: (B or 1, T), or (B or 1, 1) where those of a row are alike.
Lengths = Callable[[], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """f_i / s: positions squeezed into the old range.

    Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation", equation 4.
    """

    factor: float
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(factor=self.factor)

    def frequencies(self, theta: float, size: int, lengths: Lengths) -> jax.Array:
        """See the head of this file."""
        return _float32(unscaled(theta, size) / self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NTK:
    """theta * s^(R/(R-2)) in place of theta: the slowest pair is divided by s, the fastest stays.

    bloc97 2023, "NTK-aware scaled RoPE", as written down by Peng et al. 2023, "YaRN", section 3.1.
    """

    factor: float
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(factor=self.factor)

    def frequencies(self, theta: float, size: int, lengths: Lengths) -> jax.Array:
        """See the head of this file."""
        return _float32(unscaled(theta * self.factor ** (size / (size - 2)), size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicNTK:
    """NTK by a factor that grows with the sequence: s * length / L - (s - 1) past L, and 1 up to it.

    emozilla 2023, "Dynamically scaled RoPE"; Peng et al. 2023, section 3.3. See above for what it means with a cache.
    """

    factor: float
    original_length: int
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(factor=self.factor, original_length=self.original_length)

    def frequencies(self, theta: float, size: int, lengths: Lengths) -> jax.Array:
        """See the head of this file."""
        beyond_BT1 = jnp.maximum(lengths()[..., None] - self.original_length, 0)
        growth_BT1 = 1 + beyond_BT1.astype(jnp.float32) * (self.factor / self.original_length)
        # (theta g^(R/(R-2)))^(-2i/R) with the factor of theta taken out, which is exact where g is 1.
        power = _float32(-np.arange(0, size, 2) / (size - 2))
        return _float32(unscaled(theta, size)) * growth_BT1**power


@dataclasses.dataclass(frozen=True, kw_only=True)
class YaRN:
    """Slow pairs divided by s, fast ones as they are, a ramp between; and larger scores.

    Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models", sections 3.2 and 3.4. The
    ramp runs over i from the pair that makes beta_fast whole turns in L tokens to the one that makes beta_slow.

    Attributes:
      factor: s.
      original_length: L.
      beta_fast, beta_slow: turns in L tokens; pairs with more than the first stay, with fewer than the second are
        divided by s.
      truncate: whether the ends of the ramp are rounded outwards to whole pairs, as the paper's code does; GPT-OSS
        leaves them where they fall.
      attention_factor: the amplitude; None for the paper's 0.1 ln s + 1 (equation 22), or from the next two.
      mscale, mscale_all_dim: both or none: the amplitude is (0.1 mscale ln s + 1) / (0.1 mscale_all_dim ln s + 1)
        (DeepSeek-V2). DeepSeek also multiplies whole scores, of dimensions that do not turn too, by
        (0.1 mscale_all_dim ln s + 1)^2; that is not part of positions, and belongs into the attention's `scale`.
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
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(factor=self.factor, original_length=self.original_length)
        yield from _above_zero(
            beta_slow=self.beta_slow,
            attention_factor=self.attention_factor,
            mscale=self.mscale,
            mscale_all_dim=self.mscale_all_dim,
        )
        if self.beta_fast <= self.beta_slow:
            yield "beta_fast", f"must be above beta_slow={self.beta_slow}, got {self.beta_fast}"
        if (self.mscale is None) != (self.mscale_all_dim is None):
            given, other = ("mscale", "mscale_all_dim")[:: 1 if self.mscale_all_dim is None else -1]
            yield given, f"has no effect without {other}; give both or none"
        elif self.mscale is not None and self.attention_factor is not None:
            yield "attention_factor", "mscale and mscale_all_dim give it; leave out these two or this one"

    @property
    def amplitude(self) -> float:
        """The factor on cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale is not None and self.mscale_all_dim is not None:
            return self._grown(self.mscale) / self._grown(self.mscale_all_dim)
        return self._grown(1.0)

    def _grown(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1

    def frequencies(self, theta: float, size: int, lengths: Lengths) -> jax.Array:
        """See the head of this file."""

        def pair(turns: float) -> float:
            """The i at which L f_i / (2 pi) is a number of turns, not a whole one in general."""
            return size * math.log(self.original_length / (2 * math.pi * turns)) / (2 * math.log(theta))

        first, last = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = min(max(first, 0), size - 1), min(max(last, 0), size - 1)
        width = last - first if last != first else 0.001  # a step, as the paper's code has it
        slow = np.clip((np.arange(size // 2) - first) / width, 0, 1)
        plain = unscaled(theta, size)
        return _float32(plain / self.factor * slow + plain * (1 - slow))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Long waves divided by s, short ones as they are, a ramp over L / wavelength between.

    Llama Team 2024, "The Llama 3 Herd of Models", by the code released with Llama 3.1.

    Attributes:
      factor: s.
      low_frequency_factor: pairs that make fewer turns in L tokens are divided by s.
      high_frequency_factor: pairs that make more turns stay; the ramp is a step where both are the same (Llama 4).
      original_length: L.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int
    amplitude = 1.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        yield from _at_least_one(factor=self.factor, original_length=self.original_length)
        yield from _above_zero(low_frequency_factor=self.low_frequency_factor)
        if self.high_frequency_factor < self.low_frequency_factor:
            low, high = self.low_frequency_factor, self.high_frequency_factor
            yield "high_frequency_factor", f"must be at least low_frequency_factor={low}, got {high}"

    def frequencies(self, theta: float, size: int, lengths: Lengths) -> jax.Array:
        """See the head of this file."""
        plain, low, high = unscaled(theta, size), self.low_frequency_factor, self.high_frequency_factor
        turns = self.original_length * plain / (2 * math.pi)
        fast = np.clip((turns - low) / (high - low), 0, 1) if high > low else np.where(turns < low, 0, 1)
        return _float32(plain / self.factor * (1 - fast) + plain * fast)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRoPE:
    """Each pair divided by a factor of its own: of one list for sequences up to L tokens, of another for longer ones.

    Ding et al. 2024, "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", section 3; the choice between
    two lists and the amplitude are those of Phi-3 (Abdin et al. 2024). See above for what it means with a cache.

    Attributes:
      short_factors, long_factors: one for each pair, fastest first.
      original_length: L.
      factor: s, how many times L the model is meant to take: the amplitude is sqrt(1 + ln s / ln L).
      attention_factor: the amplitude itself, in place of `factor`.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_length: int
    factor: float | None = None
    attention_factor: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields the fields whose values make no sense."""
        for name in ("short_factors", "long_factors"):
            if any(factor <= 0 for factor in getattr(self, name)):
                yield name, f"must be above 0, got {min(getattr(self, name))}"
        if self.original_length < 2:
            yield "original_length", f"must be at least 2, got {self.original_length}"
        if (self.factor is None) == (self.attention_factor is None):
            yield "attention_factor", "give either this or factor, from which it is computed"
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

    def frequencies(self, theta: float, size: int, lengths: Lengths) -> jax.Array:
        """See the head of this file."""
        plain = unscaled(theta, size)
        short, long = _float32(plain / self.short_factors), _float32(plain / self.long_factors)
        return jnp.where(lengths()[..., None] > self.original_length, long, short)


Scaling = LinearScaling | NTK | DynamicNTK | YaRN | Llama3Scaling | LongRoPE


def unscaled(theta: float, size: int) -> np.ndarray:
    """f_i, in float64."""
    return theta ** (-np.arange(0, size, 2) / size)


def _float32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def document_lengths(positions_BT: jax.Array | None, document_BT: jax.Array | None, count: int) -> jax.Array:
    """The tokens of each token's document, by the position of its last one, as `Lengths` gives them.

    Args:
      positions_BT: of the tokens; None where they are counted from the first of a document.
      document_BT: the document of each token, whose tokens lie side by side; None where a row is one.
      count: T.
    """
    if document_BT is None:
        return jnp.full((1, 1), count) if positions_BT is None else jnp.max(positions_BT, axis=1, keepdims=True) + 1
    place_T = jnp.arange(count, dtype=jnp.int32)
    border_BT = document_BT[:, 1:] != document_BT[:, :-1]
    is_last_BT, is_first_BT = (jnp.pad(border_BT, ((0, 0), at), constant_values=True) for at in ((0, 1), (1, 0)))
    last_BT = jax.lax.cummin(jnp.where(is_last_BT, place_T, count), axis=1, reverse=True)
    if positions_BT is None:
        return last_BT + 1 - jax.lax.cummax(jnp.where(is_first_BT, place_T, 0), axis=1)
    return jnp.take_along_axis(jnp.broadcast_to(positions_BT, document_BT.shape), last_BT, axis=1) + 1


def _at_least_one(**fields: float) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value < 1:
            yield name, f"must be at least 1, got {value}"


def _above_zero(**fields: float | None) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if value is not None and value <= 0:
            yield name, f"must be above 0, got {value}"
