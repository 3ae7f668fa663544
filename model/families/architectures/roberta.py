"""RoBERTa: BERT with positions that begin after those of padding, and one type of tokens.

Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach".
"""

from model.config import ModelConfig
from model.families.architectures import bert
from model.families.config_json import ConfigJson
from model.families.family import Family
from model.positions.absolute import Learned
from model.vocabulary.pooling import Pooler
from model.vocabulary.prediction_head import PredictionHead


def read_config(config_json: ConfigJson) -> ModelConfig:
    """Returns the model that a config.json describes."""
    # The first token has the row after that of padding tokens: fairseq's convention.
    padding = config_json.get("pad_token_id", 1)
    return ModelConfig(
        **bert.fields(config_json),
        vocab_size=config_json.get("vocab_size", 50265),
        context_length=config_json.get("max_position_embeddings", 512) - padding - 1,
        position=Learned(offset=padding + 1),
        prediction_head=PredictionHead(activation="gelu"),  # whatever the layers have
    )


FAMILY = Family(
    name="roberta",
    model_types=("roberta",),
    architecture="RobertaForMaskedLM",
    read_config=read_config,
    weights=(
        *bert.stack("roberta."),
        *bert.head("lm_head.dense.", "lm_head.layer_norm.", "lm_head.bias", "lm_head.decoder."),
        *bert.pooler("roberta."),
    ),
    parts_of_files={"roberta.pooler.dense.weight": {"pooler": Pooler()}},
    buffers=("*embeddings.position_ids",),
)
