"""What happened when published weights were read: recorded in the run, and shown again."""

import json

from tests.train.conversion.folders import contents, published
from train.conversion.reading import read_published
from train.conversion.writing import write_published
from train.run.conversion_record import read_record, reading_notes, written_notes
from train.run.loading import load_run


def test_accepted_keys_are_recorded_and_shown_again(tmp_path, capfd):
    folder = published(tmp_path, sliding_window=8, own_key="x")
    read_published(folder, tmp_path / "run", accept=["sliding_window"])
    said = capfd.readouterr().err
    assert 'ignored keys of config.json, which no LlamaForCausalLM of transformers reads: own_key="x"' in said
    accepted = "accepted keys of config.json, which have no effect here: sliding_window=8"
    assert accepted in said
    record = json.loads((tmp_path / "run" / "origin" / "conversion.json").read_text())
    assert record == {"ignored": {"own_key": "x"}, "accepted": {"sliding_window": 8}}
    load_run(tmp_path / "run")
    assert accepted in capfd.readouterr().err
    write_published(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


def test_the_record_of_a_run_of_an_earlier_release_is_empty(tmp_path):
    assert read_record(tmp_path) == {"ignored": {}, "accepted": {}}
    assert written_notes(tmp_path) == []


def test_a_language_model_says_where_it_comes_from(tmp_path):
    record = {"ignored": {}, "accepted": {}, "language_model_of": "gemma3"}
    record["left_out"] = {"vision_tower": {"tensors": 1439, "bytes": 812_345_678}}
    assert reading_notes(record, "Gemma3ForCausalLM") == [
        "the language model of this gemma3 is read; left out: vision_tower (1,439 tensors, 812.3 MB)"
    ]
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "conversion.json").write_text(json.dumps(record))
    values = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
    (tmp_path / "origin" / "config.json").write_text(json.dumps(values))
    (note,) = written_notes(tmp_path)
    assert "read from a gemma3" in note
    assert "a Gemma3ForCausalLM with model_type gemma3_text" in note
