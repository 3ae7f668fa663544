"""What can stand where a layer moves information between tokens: attention, or a recurrence."""

from typing import Any

from model.attention.cache import Cache
from model.attention.grouped_query import Attention, GroupedQuery
from model.attention.latent import Latent, LatentAttention, LatentCache
from model.parameters import ParameterMaker
from model.positions.absolute import LayerPosition
from model.recurrent.delta import DeltaHeads, GatedDelta
from model.recurrent.gru import GRU, GatedRecurrentUnits
from model.recurrent.linear import LinearAttention, LinearAttentionHeads
from model.recurrent.lstm import LSTM, LongShortTermMemory
from model.recurrent.memory import State

Mixer = GroupedQuery | Latent | LinearAttention | GatedDelta | LSTM | GRU
MixerCache = Cache | LatentCache | State


def new_mixer(
    option: Mixer, position: LayerPosition, width: int, dropout: float, reductions: str, make: ParameterMaker
) -> Any:
    """The module of an option: (x_BTD, context, cache) to (y_BTD, cache).

    Args:
      option: which mixer.
      position: the positions of its layer; recurrences have none.
      width: D.
      dropout: the share of attention weights dropped while training; recurrences have no such weights.
      reductions: the dtype of sensitive sums.
      make: draws the parameters.
    """
    match option:
        case GroupedQuery():
            return Attention(option, width, dropout, reductions, make, position)
        case Latent():
            return LatentAttention(option, width, dropout, reductions, make, position)
        case LinearAttention():
            return LinearAttentionHeads(option, width, reductions, make)
        case GatedDelta():
            return DeltaHeads(option, width, reductions, make)
        case LSTM():
            return LongShortTermMemory(option, width, reductions, make)
        case GRU():
            return GatedRecurrentUnits(option, width, reductions, make)
    raise AssertionError(option)
