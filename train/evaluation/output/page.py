"""A page of an evaluation, self-contained: its numbers, its charts, and texts with every token coloured by its loss.

Of two models the page shows the loss of either, or the difference by which one is better, over the same text. Of long
texts only the first tokens of the first documents of each domain are on the page, and it says so.
"""

import math
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from train.evaluation.bench.pairs import OTHER_TOKENIZERS
from train.evaluation.bench.request import Outcome
from train.evaluation.details import Details
from train.evaluation.document_scores import DocumentScore
from train.evaluation.output.pieces import Piece, TokenOnPage, split_into_pieces
from train.evaluation.output.tables import (
    UNITS,
    detail_rows,
    difference_rows,
    domain_rows,
    length_rows,
    lengths_note,
    measure_rows,
    pair_detail_rows,
    pair_notes,
    result_notes,
)
from train.files.files import replace_file
from train.report.drawing import Chart, Palette, draw_svg
from train.report.template import as_script_data, fill, read_source
from train.terminal.formatting import format_counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_page(outcome: Outcome, text: str, path: pathlib.Path) -> None:
    """Writes the page of the results; `text` names the measured text. Raises UserError when it cannot be written."""
    replace_file(path, render_page(outcome, text).encode())


def render_page(outcome: Outcome, text: str) -> str:
    """The page as one HTML document that refers to nothing outside itself."""
    results, pair = outcome.results, outcome.pair
    documents, notes = page_documents(outcome)
    domains: list[list[str]] = []
    if outcome.lengths:
        head, *rows = length_rows(outcome.lengths)
        notes.insert(0, f"Of {lengths_note(outcome.lengths)}. The losses of tokens are those of the longest window.")
    elif pair is None:
        head, rows = ["", "value", "standard error"], measure_rows(results[0])
        rows += [] if results[0].details is None else detail_rows(results[0].details)
        if len(results[0].domains) > 1:
            domains = domain_rows({name: tally.measures() for name, tally in results[0].domains.items()})
    else:
        head, rows = ["", "A", "B", "B \u2212 A", "95% interval", "p"], difference_rows(pair.measures)
        rows += [[*row, "", "", ""] for row in pair_detail_rows(pair)]
        for name, measures in pair.domains.items():
            domains += [[name, *row[1:]] for row in difference_rows({"bits_per_byte": measures["bits_per_byte"]})]
        domains = [["bits per byte of", *head[1:]], *domains] if domains else []
        if not pair.same_tokenizer:
            notes.insert(0, f"{OTHER_TOKENIZERS[0].upper()}{OTHER_TOKENIZERS[1:]}.")
    models = [f"{each.run}, step {each.step}" for each in results]
    return fill(
        "train.evaluation.output",
        "page.html",
        script=read_source("train.evaluation.output", "page.js"),
        data=as_script_data({"documents": documents, "models": models}),
        models=list(zip("AB", models, strict=False)),
        text=text,
        head=head,
        rows=_with_units(rows),
        domains=domains,
        charts=list(detail_charts(outcome)),
        notes=notes,
        conditions=conditions(outcome),
    )


def conditions(outcome: Outcome) -> list[str]:
    """The text that was measured, and how, in sentences; of windows of several lengths the note of the page has it."""
    result = outcome.results[0]
    sizes = [format_counted(len(result.tally.entries), "document"), f"{result.tally.count('bytes'):,} bytes"]
    if outcome.pair is None:
        sizes.insert(1, f"{result.tally.count('tokens'):,} tokens")
    notes = result_notes(result) if outcome.pair is None else pair_notes(outcome.pair)
    return [", ".join(sizes), *([] if outcome.lengths else notes)]


def _with_units(rows: list[list[str]]) -> list[list[str]]:
    """Rows whose first cell names the unit of the row too: loss per token, nats."""
    return [[f"{row[0]}, {unit}" if (unit := UNITS.get(row[0])) else row[0], *row[1:]] for row in rows]


def page_documents(outcome: Outcome) -> tuple[list[dict[str, Any]], list[str]]:
    """The documents of the page, and sentences about the parts of the text that are not on it."""
    results, models = outcome.results, outcome.models
    readings = [{each.number: each for each in result.scores if each.ids} for result in results]
    shown: list[dict[str, Any]] = []
    differing = 0
    for number, score in readings[0].items():
        if not all(number in one for one in readings):
            continue
        scores = [one[number] for one in readings]
        pieces, agree = split_into_pieces(
            [(model.tokenizer, each.ids, each.losses) for model, each in zip(models, scores, strict=True)]
        )
        differing += not agree
        shown.append(_document(score, pieces))
    notes = []
    total = len(results[0].scores)
    cut = any(len(readings[0][each["number"]].losses) < each["tokens"] for each in shown)
    if len(shown) < total or cut:
        count = f"{len(shown):,} of {total:,} documents" if len(shown) < total else "every document"
        notes.append(
            f"This is a sample: the first tokens of {count}, chosen in their order until a domain has enough. The "
            "numbers above are of the whole text."
        )
    if differing:
        notes.append(
            f"In {format_counted(differing, 'document')} the models read different characters: only A is shown there."
        )
    return shown, notes


def _document(score: DocumentScore, pieces: list[Piece]) -> dict[str, Any]:
    return {
        "number": score.number,
        "name": score.name,
        "domain": score.domain if score.domain != score.name else "",
        "tokens": score.sums.tokens,
        "shown": len(score.losses),
        "pieces": [[piece.text, *(_tokens(piece, tokens) for tokens in piece.tokens)] for piece in pieces],
    }


def _tokens(piece: Piece, tokens: tuple[TokenOnPage, ...]) -> Any:
    """The tokens of a piece as JSON: the loss of a single one, or a list of texts and losses."""
    rounded = [[text, None if loss is None or not math.isfinite(loss) else round(loss, 4)] for text, loss in tokens]
    return rounded[0][1] if len(rounded) == 1 else rounded


def detail_charts(outcome: Outcome) -> Iterator[Chart]:
    """The loss against the window; and against the position, and calibration, of the models that have details.

    Models with different tokens are not drawn over one another: their losses are of different parts of the text.
    """
    comparable = outcome.pair is None or outcome.pair.same_tokenizer
    names = [""] if outcome.pair is None else ["A", "B"]
    found = [
        (name, each.details)
        for name, each in zip(names, outcome.results, strict=True)
        if each.details is not None and comparable
    ]
    if outcome.lengths:
        yield _lengths_chart(outcome)
    if found:
        yield _positions_chart(found)
        yield _calibration_chart(found)


def _color(colors: Palette, name: str) -> str:
    return colors.validation if name == "B" else colors.train


def _lengths_chart(outcome: Outcome) -> Chart:
    ratios = [each.ratio for each in outcome.lengths]
    losses = [each.result.measures["loss"] for each in outcome.lengths]

    def draw(axes: "Axes", colors: Palette) -> None:
        errors = [each.standard_error or 0.0 for each in losses]
        axes.errorbar(ratios, [each.value for each in losses], errors, color=colors.train, marker="o", markersize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ratios, [f"{ratio:.3g}x" for ratio in ratios])
        axes.set_xlabel("window, in multiples of the trained length")
        axes.set_ylabel("loss, nats per token")

    svg = draw_svg("lengths", draw, width=4.2, height=2.6, label="loss against the length of the window")
    caption = "The same documents in windows of each length; bars are standard errors."
    return Chart(title="Loss against the window", caption=caption, svg=svg)


def _positions_chart(found: list[tuple[str, Details]]) -> Chart:
    def draw(axes: "Axes", colors: Palette) -> None:
        for name, details in found:
            places = [(each.first * each.last) ** 0.5 for each in details.positions]
            losses = [each.loss.value for each in details.positions]
            errors = [each.loss.standard_error or 0.0 for each in details.positions]
            color = _color(colors, name)
            axes.errorbar(places, losses, errors, color=color, marker="o", markersize=3, linewidth=1.2, label=name)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        axes.set_xlabel("tokens before it in the window")
        axes.set_ylabel("loss, nats per token")
        _add_legend(axes, colors, found)

    svg = draw_svg("positions", draw, width=4.2, height=2.6, label="loss against the position in the context")
    caption = "Means of positions 1, 2, 3 to 4, 5 to 8, ...; bars are standard errors over documents."
    return Chart(title="Loss against the position in the context", caption=caption, svg=svg)


def _calibration_chart(found: list[tuple[str, Details]]) -> Chart:
    def draw(axes: "Axes", colors: Palette) -> None:
        axes.plot([0, 1], [0, 1], color=colors.muted, linewidth=0.8, linestyle=":")
        for name, details in found:
            confidences, accuracies = zip(*((each.confidence, each.accuracy) for each in details.bins), strict=True)
            axes.plot(confidences, accuracies, color=_color(colors, name), marker="o", markersize=3, label=name)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(_tenths())
        axes.set_xlabel("probability of the likeliest token")
        axes.set_ylabel("share of tokens for which it came")
        _add_legend(axes, colors, found)

    svg = draw_svg("calibration", draw, width=4.2, height=2.6, label="accuracy against confidence")
    errors = ", ".join(f"{name} {details.calibration_error:.4f}".strip() for name, details in found)
    caption = f"15 bins of equal width; a calibrated model is on the dotted line. Expected calibration error: {errors}."
    return Chart(title="Calibration", caption=caption, svg=svg)


def _tenths() -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(0.2)


def _add_legend(axes: "Axes", colors: Palette, found: list[tuple[str, Details]]) -> None:
    if any(name for name, _ in found):
        axes.legend(frameon=False, labelcolor=colors.muted)
