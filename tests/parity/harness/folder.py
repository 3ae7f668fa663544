"""A small LLaMA as a Hugging Face folder with a tokenizer, and what the harness asks it; needs neither torch nor lm_eval."""

import json
import pathlib
import random
import shutil

import tokenizers
import yaml

MODEL = pathlib.Path(__file__).parents[2] / "fixtures" / "families" / "llama" / "0"  # 64 tokens, a context of 128
MARKS = ["<unk>", "<s>", "</s>"]
KINDS = (
    "adds_begin",
    "adds_none",
)  # whether the tokenizer puts <s> before a text, as LLaMA's does and GPT-2's does not
WORDS = "the cat sees a dog and it runs far under one old tree until night comes or some bird sings low".split()


def make_folder(folder, kind):
    """Writes the model with a tokenizer of letters and a few merges, in the manner of LLaMA's; returns the folder."""
    shutil.copytree(MODEL, folder)
    (folder / "expected.npz").unlink()
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz", ".", "?", ":", "0", "1"]
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("a", "n"), ("i", "n"), ("\u2581", "a"), ("e", "r")]
    vocabulary = [*MARKS, *letters, *(a + b for a, b in merges)]
    model = tokenizers.models.BPE({x: i for i, x in enumerate(vocabulary)}, merges, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.add_special_tokens(MARKS)
    if kind == "adds_begin":
        single = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tokenizer.post_processor = single
    # Ids that no text has: the model has more rows than the tokenizer has tokens.
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def _text(draw, words):
    return " ".join(draw.choices(WORDS, k=words))


def requests_of():
    """Returns the requests of each kind: empty, short and too long contexts, stop strings, begin tokens in the text."""
    draw = random.Random(0)
    scored = [(_text(draw, n), " " + _text(draw, m)) for n in (1, 2, 5, 9, 30, 60) for m in (1, 4)]
    scored += [("", "the cat"), ("", " a"), ("the cat ", "sees"), ("<s>the cat", " sees a dog"), ("the cat", ".")]
    rolled = [(_text(draw, n),) for n in (1, 3, 20, 40, 80)] + [("<s>the cat sees",)]
    greedy = {"until": ["."], "max_gen_toks": 12}
    texts = [(_text(draw, n), greedy) for n in (1, 3, 8, 25, 60)]
    texts += [(_text(draw, 4), {"until": ["e", "an"], "max_gen_toks": 20, "do_sample": False, "temperature": 0.0})]
    texts += [("the", {"until": [], "max_gen_toks": 100}), ("<s>the cat", greedy)]
    return {
        "loglikelihood": [list(pair) for pair in scored],
        "loglikelihood_rolling": [list(one) for one in rolled],
        "generate_until": [list(pair) for pair in texts],
    }


def make_tasks(folder):
    """Writes three tasks, each a .yaml and a .jsonl; returns the folder."""
    folder.mkdir()
    draw = random.Random(1)
    rows = []
    for _ in range(12):
        choices = [_text(draw, draw.randint(1, 3)) for _ in range(3)]
        rows.append(
            {"question": _text(draw, 6), "choices": choices, "answer": draw.randrange(3), "text": _text(draw, 30)}
        )
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    tasks = {
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}} ?",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        },
        "writing": {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{choices[0]}}",
            "generation_kwargs": {"until": ["."], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    for name, fields in tasks.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | base | fields))
    return folder
