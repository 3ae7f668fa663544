import pathlib

from model.taps.meanings import table


def test_the_list_in_the_readme_is_that_of_the_code():
    readme = (pathlib.Path(__file__).resolve().parents[3] / "model" / "README.md").read_text(encoding="utf-8")
    assert readme.count(table()) == 1, f"model/README.md lists other taps; it should have\n{table()}"
