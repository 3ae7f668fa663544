import dataclasses
import shutil

import pytest

from model.errors import UserError
from train.data import Bytes, Data, HeldOutDocuments, Source, Tail, open_dataset, prepare
from train.data.prepare.tokenizing import JobRunner, finished_result, remove_result_files, split_document, training_text
from train.data.text.sources import Document, list_units
from train.data.text.split import held_out_by_hash


def test_tail_refuses_tables_and_cuts_every_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n')
    with pytest.raises(UserError, match=r"Tail\(\) cuts text files, but .*a\.jsonl is a table"):
        prepare(Data(path=str(tmp_path / "a.jsonl"), validation=Tail()), tmp_path / "d")
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.txt").write_text("0123456789")
    (tmp_path / "b.txt").write_text("x")
    data = Data(path=f"{tmp_path}/*.txt", tokenizer=Bytes(), validation=Tail(fraction=0.3))
    dataset = open_dataset(prepare(data, tmp_path / "d"))
    texts = {
        name: [dataset.tokenizer.decode(split.tokens(d)) for d in range(split.num_documents)]
        for name, split in dataset.splits.items()
    }
    assert texts == {"train": ["0123456"], "validation": ["789", "x"]}
    assert dataset.splits["validation"].document_name(0) == "a.txt from character 7"


def test_the_parts_of_a_document():
    document = Document("a.txt", "0123456789")
    cases = [
        (None, None, [("train", "a.txt", "0123456789")]),
        (HeldOutDocuments(), frozenset({"a.txt"}), [("validation", "a.txt", "0123456789")]),
        (HeldOutDocuments(), frozenset({"b.txt"}), [("train", "a.txt", "0123456789")]),
        (
            Tail(fraction=0.2),
            None,
            [("train", "a.txt", "01234567"), ("validation", "a.txt from character 8", "89")],
        ),
        (Tail(fraction=0.99), None, [("validation", "a.txt from character 0", "0123456789")]),
    ]
    for option, held, expected in cases:
        assert [(name, part.name, part.text) for name, part in split_document(document, option, held)] == expected
        trained = "".join(text for name, _, text in expected if name == "train")
        assert training_text(document, option, held) == trained


def test_without_a_comparison_the_hash_of_the_name_decides():
    option = HeldOutDocuments(fraction=0.5, similarity=None)
    for k in range(20):
        ((name, _),) = split_document(Document(f"{k}.txt", "text"), option, None)
        assert (name == "validation") == held_out_by_hash(f"{k}.txt", option)


def test_a_job_is_finished_when_its_shards_are_whole(dataset, tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    for name in ("tokenizer.json", "tokenizer_option.json"):
        if (dataset.folder / name).is_file():
            shutil.copy(dataset.folder / name, tmp_path)
    units = [dataclasses.asdict(unit) for unit in list_units(Source(path=str(tmp_path / "a.txt")))]
    job = {"name": "0", "split": "train", "units": units}
    assert finished_result(tmp_path, "0") is None
    part = JobRunner(str(tmp_path), None, None, []).run(job)
    assert finished_result(tmp_path, "0") == part
    assert part["shards"]["train"]["tokens"] == len("some text")
    shard = tmp_path / part["shards"]["train"]["file"]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert finished_result(tmp_path, "0") is None
    remove_result_files(tmp_path, "0")
    assert not list(tmp_path.glob("part-*"))
