"""What can stand where a layer moves information between tokens: attention, or a recurrence."""

from typing import Any

from model.attention import Attention, GroupedQuery
from model.cache import Cache
from model.delta_rule import DeltaHeads, GatedDelta
from model.gru import GRU, GatedRecurrentUnits
from model.initialization import ParameterMaker
from model.latent_attention import Latent, LatentAttention, LatentCache
from model.linear_attention import LinearAttention, LinearAttentionHeads
from model.lstm import LSTM, LongShortTermMemory
from model.recurrence import State

Mixer = GroupedQuery | Latent | LinearAttention | GatedDelta | LSTM | GRU
MixerCache = Cache | LatentCache | State


def new_mixer(option: Mixer, width: int, dropout: float, reductions: str, make: ParameterMaker) -> Any:
    """The module of an option: (x_BTD, context, cache) to (y_BTD, cache).

    Args:
      option: which mixer.
      width: D.
      dropout: the share of attention weights dropped while training; recurrences have no such weights.
      reductions: the dtype of sensitive sums.
      make: draws the parameters.
    """
    match option:
        case GroupedQuery():
            return Attention(option, width, dropout, reductions, make)
        case Latent():
            return LatentAttention(option, width, dropout, reductions, make)
        case LinearAttention():
            return LinearAttentionHeads(option, width, reductions, make)
        case GatedDelta():
            return DeltaHeads(option, width, reductions, make)
        case LSTM():
            return LongShortTermMemory(option, width, reductions, make)
        case GRU():
            return GatedRecurrentUnits(option, width, reductions, make)
    raise AssertionError(option)
