"""The union of all mixers, which move information between tokens: attention, or a recurrence.

Every option implements `MixerOption` of model/interfaces.py and builds its own module.
"""

from model.attention.cache import ContiguousCache, RingCache
from model.attention.grouped_query import GroupedQuery
from model.attention.latent import Latent
from model.recurrent.delta import GatedDelta
from model.recurrent.gru import GRU
from model.recurrent.linear import LinearAttention
from model.recurrent.lstm import LSTM
from model.recurrent.memory import RecurrentState
from model.recurrent.state_space import StateSpace

Mixer = GroupedQuery | Latent | LinearAttention | GatedDelta | StateSpace | LSTM | GRU
MixerCache = ContiguousCache | RingCache | RecurrentState
