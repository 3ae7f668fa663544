r"""Records the tokens that `transformers` counts as the assistant's, for tests/train/data/conversations.

    python -m tests.parity.alignment.masks    (writes tests/fixtures/assistant_masks.json; needs transformers and torch)

The templates have the shapes of published ones in miniature: ChatML, LLaMA 3, Mistral, Gemma, and one that drops earlier
thoughts as DeepSeek's does. In SHAPES « and » stand for the borders of a generation block.
"""

import json
import pathlib
import tempfile

import tokenizers

FIXTURE = pathlib.Path(__file__).parents[2] / "fixtures" / "assistant_masks.json"
MARKS = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|User|>", "<|Assistant|>", "<|end|>"),
]
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
SHAPES = {
    "chatml": """{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant
«{{ m.content }}<|im_end|>
»{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{{ '' }}{% endif %}""",
    "llama3": """{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ '' }}{% if m.role == 'assistant' %}«{{ m.content | trim }}<|eot_id|>»{% else %}{{ m.content | trim }}<|eot_id|>
{%- endif %}{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{{ '' }}{% endif %}""",
    "mistral": """{{ bos_token }}{% for m in messages %}
{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}« {{ m.content }}{{ eos_token }}»
{%- else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}""",
    "gemma": """{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}
{% set role = 'model' if m.role == 'assistant' else m.role %}<start_of_turn>{{ role }}
{{ '' }}{% if role == 'model' %}«{{ m.content | trim }}<end_of_turn>
»{% else %}{{ m.content | trim }}<end_of_turn>
{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{{ '' }}{% endif %}""",
    "thinking": """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}
{%- elif m.role != 'assistant' %}{{ raise_exception('only user and assistant') }}
{%- else %}{% set text = m.content %}{% if '</think>' in text and not loop.last %}
{% set text = text.split('</think>')[-1] %}{% endif %}<|Assistant|>«{{ text }}<|end|>»{% endif %}{% endfor %}
{% if add_generation_prompt %}<|Assistant|><think>
{{ '' }}{% endif %}""",
}
USER = {"role": "user", "content": "hello there\nyou"}
CHATS = {
    "one": [USER, {"role": "assistant", "content": "hi, é漢🙂 in it"}],
    "spaces": [{"role": "user", "content": "  hello "}, {"role": "assistant", "content": " well\n"}],
    "two": [
        USER,
        {"role": "assistant", "content": "hello hello"},
        {"role": "user", "content": "in"},
        {"role": "assistant", "content": "the hill"},
    ],
    "system": [{"role": "system", "content": "be brief"}, USER, {"role": "assistant", "content": "ok"}],
    "thoughts": [
        USER,
        {"role": "assistant", "content": "<think>\nhm\n</think>ha"},
        {"role": "user", "content": "in"},
        {"role": "assistant", "content": "<think>\nthe\n</think>hell"},
    ],
}


def marked(source):
    """A shape with generation marks."""
    return source.replace("«", "{% generation %}").replace("»", "{% endgeneration %}")


def unmarked(source):
    """A shape as it is published."""
    return source.replace("«", "").replace("»", "")


def make_tokenizer(folder, words=True):
    """Writes a tokenizer.json of bytes with a few merges; without `words` some cross the borders of answers."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "t"), ("i", "n"), ("Ġ", "hell"), ("Ċ", "hell"), ("Ġ", "in")]
    vocabulary = {name: i for i, name in enumerate([*letters, *(a + b for a, b in merges)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(MARKS)
    path = pathlib.Path(folder) / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def main():
    """Writes the fixture."""
    import transformers

    cases = []
    for words in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            path = make_tokenizer(folder, words)
            tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), **NAMES)
        for shape, source in SHAPES.items():
            for chat, messages in CHATS.items():
                try:
                    made = tokenizer.apply_chat_template(
                        messages, chat_template=marked(source), return_dict=True, return_assistant_tokens_mask=True
                    )
                except Exception as error:
                    if "only user" not in str(error) and "no system" not in str(error):
                        raise
                    continue
                mask = "".join(map(str, made["assistant_masks"]))
                cases.append({"words": words, "shape": shape, "chat": chat, "ids": made["input_ids"], "mask": mask})
    recorded = {"transformers": transformers.__version__, "cases": cases}
    FIXTURE.write_text(json.dumps(recorded, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
