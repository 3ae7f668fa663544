"""The result of a training: measures, curves, densities."""

from train.inspection.features.training.report import result_of


def test_the_page_has_measures_curves_densities_and_options(trained):
    result = result_of(trained.folder)
    assert [row[0] for row in result.parts[0].rows] == ["top", "relu", "through"]
    titles = [chart.title for chart in result.parts[1].charts]
    assert {"Explained variance of a step", "Densities of top"} <= set(titles)
    assert result.parts[2].rows[2][1] == "mixer_output of layer 0 to ffn_output"
    assert result.notes == [note for note in result.notes if note.startswith("The threshold of 'through' is a mean")]
    assert "first ones until step 459: until then L0" in result.notes[0]
    assert "finished at step 12 of 12" in result.about
    assert result.numbers["measures"]["top"]["l0"] > 0
    assert result.arrays["relu"].shape == (40,)
    html = (trained.folder / "index.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")
