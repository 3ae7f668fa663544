import json

import pytest

from model.errors import UserError
from tests.train.conversion.folders import FIXTURES, contents, published
from train.conversion.reading import read_published
from train.conversion.writing import write_published
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
