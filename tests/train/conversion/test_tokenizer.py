import json
import shutil

import numpy as np
import pytest
import tokenizers

from model.errors import UserError
from model.transformer import forward
from tests.train.conversion.folders import FIXTURES, contents, published
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.evaluation.evaluate import evaluate
from train.evaluation.pseudo import Marks, marks_of
from train.objectives.masked import MaskedTokens
from train.run.loading import load_run


@pytest.mark.parametrize("direction", ["Left", "Right"])
def test_a_tokenizer_with_settings_for_batches_converts_as_without(tmp_path, direction):
    folder = published(tmp_path)
    about = json.loads((folder / "tokenizer.json").read_text())
    truncation = {"direction": direction, "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 8},
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "[UNK]",
    }
    about |= {"truncation": truncation, "padding": padding | {"direction": direction}}
    (folder / "tokenizer.json").write_text(json.dumps(about))
    read_published(folder, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert (run.tokenizer.begin_of_document, run.tokenizer.end_of_document) == (0, 1)
    assert run.tokenizer.encode("a b c").tolist() == [3, 4, 5]
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_without_a_tokenizer_it_says_where_to_put_one(tmp_path):
    read_published(FIXTURES / "llama" / "0", tmp_path / "run")
    with pytest.raises(
        UserError, match=r"without tokenizer.json or tokenizer.model, .* put it there, delete the run and"
    ):
        load_run(tmp_path / "run")


def bert_tokenizer():
    """A WordPiece tokenizer that puts [CLS] before a text and [SEP] after it, as BERT's does."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(names[:5])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@pytest.mark.sweep
def test_a_published_bert_knows_its_marks_and_is_measured_by_pseudo_perplexity(tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(FIXTURES / "bert" / "0", folder)
    (folder / "expected.npz").unlink()
    bert_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "[MASK]", "cls_token": "[CLS]"}))
    read_published(folder, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert (run.tokenizer.begin_of_document, run.tokenizer.end_of_document) == (2, 3)
    assert run.experiment.objective == MaskedTokens(mask_id=4)
    assert marks_of(run.experiment, run.tokenizer) == Marks(4, 2, 3)
    model, losses = run.experiment.model, []
    for position, token in enumerate([5, 6, 5], start=1):
        row = np.array([[2, 5, 6, 5, 3]])
        row[0, position] = 4
        logits = np.asarray(forward(model, run.params, row).logits_BTV[0, position], np.float64)
        losses.append(np.log(np.exp(logits).sum()) - logits[token])
    result = evaluate(run, ["a b a"])
    assert result.measures["loss"].value == pytest.approx(np.mean(losses), abs=0.02)  # products of bfloat16
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_a_bert_whose_tokenizer_names_no_mask_is_refused(tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(FIXTURES / "bert" / "0", folder)
    bert_tokenizer().save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="mask_token=None is no special token of the tokenizer"):
        read_published(folder, tmp_path / "run")
