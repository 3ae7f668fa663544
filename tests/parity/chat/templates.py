r"""Records what `transformers` makes of chats, for tests/train/generation/test_chat_template.py.

    python -m tests.parity.chat.templates    (writes tests/fixtures/chat_templates.json; needs transformers and torch)

The templates use between them what the published ones use: trimming, slices, macros, namespaces, loop controls, tests,
refusals, dates, JSON, `generation` blocks.
"""

import json
import pathlib
import tempfile

import tokenizers

FIXTURE = pathlib.Path(__file__).parents[2] / "fixtures" / "chat_templates.json"
MARKS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]

TEMPLATES = {
    "chatml": """{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "alternating": """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% else %}
    {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}
{% endif %}
{% endfor %}""",
    "thinking": """{%- set ns = namespace(last=0) -%}
{%- for message in messages[::-1] -%}
    {%- if message.role == 'user' -%}{%- set ns.last = messages | length - loop.index -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{%- macro turn(role, text) -%}<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro -%}
{%- for message in messages -%}
    {%- set text = message.content if message.content is string else '' -%}
    {%- if message.role == 'assistant' and '</think>' in text and loop.index0 < ns.last -%}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{- turn(message.role, text) -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    <|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}
{%- endif -%}""",
    "dated": """{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
Today: {{ date_string }}
{% if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}
{{ {"b": "é<>", "a": [1, none, true]} | tojson }}
{% for message in messages %}
    {% if not message.content %}{% continue %}{% endif %}
{{ message.role | capitalize }}{{ ' (' ~ message.name ~ ')' if message.name is defined }}: {{ message.content }}
{% endfor %}
{{ 'Assistant:' if add_generation_prompt else eos_token }}""",
}
HELLO = [{"role": "user", "content": "  hello there "}]
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "two\nlines <b>&amp;</b>"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes é漢🙂"},
    {"role": "user", "content": "and {{ this }}?", "name": "ann"},
]
EMPTY = [{"role": "user", "content": ""}, {"role": "assistant", "content": "so"}, {"role": "user", "content": "x"}]
CHATS = {"hello": HELLO, "talk": TALK, "without_system": TALK[1:], "empty": EMPTY, "answered": TALK[1:3]}
VARIABLES = {"date_string": "26 Jul 2024", "enable_thinking": False}


def make_tokenizer(folder):
    """Writes a tokenizer.json of bytes with marks; returns its path."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "t"), ("i", "n")]
    names = [*letters, *(a + b for a, b in merges)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(MARKS)
    path = pathlib.Path(folder) / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def main():
    """Writes the fixture."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(make_tokenizer(folder)), bos_token="<s>", eos_token="</s>"
        )
    cases = []
    for template, source in TEMPLATES.items():
        for chat, messages in CHATS.items():
            given = {"chat_template": source, "add_generation_prompt": True, **VARIABLES}
            try:
                text = tokenizer.apply_chat_template(messages, tokenize=False, **given)
                ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **given)
            except Exception as error:
                text, ids = f"refused: {error}", None
            cases.append({"template": template, "chat": chat, "text": text, "ids": ids})
    recorded = {"transformers": transformers.__version__, "cases": cases}
    FIXTURE.write_text(json.dumps(recorded, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
