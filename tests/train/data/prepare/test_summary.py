import json
import shutil

from train.data.prepare.summary import summary


def test_counts_of_any_size_keep_their_columns(dataset, tmp_path):
    folder = shutil.copytree(dataset.folder, tmp_path / "d")
    description = json.loads((folder / "dataset.json").read_text())
    split = description["splits"]["train"]
    split["tokens"] = 15 * 10**12  # those of its shards, of which there is one
    split["shards"][0]["tokens"] = 15 * 10**12
    (folder / "dataset.json").write_text(json.dumps(description))
    head, train, validation = [line for line in summary(folder).splitlines() if not line.startswith(("/", "tokenizer"))]
    assert len(head) == len(train) == len(validation)
    assert train.split()[2] == "15,000,000,000,000"
    assert validation.split()[2] == f"{dataset.count('validation', 'tokens'):,}"
    assert head.split() == ["split", "documents", "tokens", "bytes", "words", "bytes/token", "shards"]
