"""Parameter counts of published models beside those of their cards and papers: python -m tests.parity.sizes

Published counts are exact where the weights are public, else rounded as in the paper; published counts of active
parameters (those that a token uses) are rounded as in papers, in billions.
"""

import math
from collections.abc import Iterator

import jax

from model.cost import count_parameters
from model.families.sizes import SIZES, published
from model.transformer import abstract_params
from tests.parity.table import table

PUBLISHED = {
    "gpt1": 116_534_784,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-v1_1-base": 247_577_856,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt-neo-125m": 125_198_592,
    "gpt-neo-1.3b": 1_315_575_808,
    "gpt-neo-2.7b": 2_651_307_520,
    "tinystories-33m": 68_514_048,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,
    "gemma-4-31b": 30_697_345_340,
    "gemma-4-e2b": 4_628_569_379,
    "gemma-4-26b-a4b": 25_233_141_790,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
    "internlm2-7b": 7_737_708_544,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "olmo-1b": 1_176_764_416,
    "olmo-7b": 6_888_095_744,
    "olmo-2-7b": 7_298_617_344,
    "olmo-2-13b": 13_716_198_400,
    "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "stablelm-2-1.6b": 1_644_515_328,
    "starcoder": 15_517_456_384,
    "codestral-mamba-7b": 7_285_403_648,
    "granite-4.0-h-350m": 340_332_224,
    "qwen3-next-80b-a3b": 79_674_391_296,
}
# Brown et al. 2020, table 2.1; some of its rows are inconsistent: see model/families/paper_models.py.
ROUNDED = {
    "gpt3-small": "125M",
    "gpt3-medium": "350M",
    "gpt3-large": "760M",
    "gpt3-xl": "1.3B",
    "gpt3-2.7b": "2.7B",
    "gpt3-6.7b": "6.7B",
    "gpt3-13b": "13.0B",
    "gpt3-175b": "175.0B",
}
CARD = {"grok-1": "314B", "kimi-k2": "1T"}  # the cards give no exact number
# Active parameters of a token in billions, as papers and cards round them; some cut off the last digit.
ACTIVE = {
    "mixtral-8x7b": "12.9",
    "mixtral-8x22b": "39",
    "qwen3-30b-a3b": "3.3",
    "qwen3-235b-a22b": "22",
    "gemma-4-26b-a4b": "3.8",
    "deepseek-v2": "21",
    "deepseek-v3": "37",
    "deepseek-v2-lite": "2.4",
    "kimi-k2": "32",
    "gpt-oss-20b": "3.6",
    "gpt-oss-120b": "5.1",
    "qwen3-next-80b-a3b": "3",
}
# These counts leave out the embedding table, because a token only looks up one row of it.
WITHOUT_EMBEDDING = ("deepseek-v2-lite", "kimi-k2", "gpt-oss-20b", "gpt-oss-120b")


def total(name: str) -> int:
    """Returns the number of entries of all parameters, from their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(published(name))))


def active(name: str) -> int:
    """Returns the number of parameters that a token uses, as the model's publishers count them."""
    config = published(name)
    return count_parameters(config).active - (config.vocab_size * config.width if name in WITHOUT_EMBEDDING else 0)


def rows() -> Iterator[tuple[str | int, ...]]:
    """Yields the rows of the table."""
    for name in SIZES:
        count, known = total(name), PUBLISHED.get(name)
        stated = (ROUNDED | CARD).get(name, "") if known is None else known
        mark = "" if known in (None, count) else " DIFFERS"
        used = active(name)
        yield name + mark, count, stated, "" if used == count else used, ACTIVE.get(name, "")


if __name__ == "__main__":
    print(table(("model", "parameters", "published", "active", "said to be"), rows()))
