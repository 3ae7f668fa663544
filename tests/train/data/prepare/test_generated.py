from train.data import Numbers, open_dataset, prepare
from train.data.generated import Generated
from train.evaluation.probes.recall import Recall


def test_the_folder_has_a_vocabulary_and_no_documents(tmp_path):
    data = Generated(task=Recall(num_pairs=2, num_keys=4, num_values=5, length=16))
    folder = prepare(data, tmp_path / "data")
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    dataset = open_dataset(folder)
    assert dataset.tokenizer.option == Numbers(vocab_size=9)
    for split in ("train", "validation"):
        (part,) = dataset.split(split)
        assert (part.num_documents, part.num_tokens) == (0, 0)
        assert dataset.unrestored_in_words(split) is None
    prepare(data, tmp_path / "data")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == files  # nothing is written again
