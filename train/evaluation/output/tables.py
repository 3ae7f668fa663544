"""Tables of results for the terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence

from train.evaluation.bench.lengths import LengthResult
from train.evaluation.bench.pairs import OTHER_TOKENIZERS, Compared, Pair
from train.evaluation.bench.request import Outcome
from train.evaluation.details import TOP, Details
from train.evaluation.domains import EXPONENTIALS, macro_average
from train.evaluation.evaluate import COUNTS, UNKNOWN, Result, finite_or_none, tally_as_json
from train.evaluation.measures import Estimate
from train.terminal.formatting import escape_unprintable, format_counted, format_number, format_percent

# Of each measure: its printed name, its unit.
MEASURE_WORDS = {
    "loss": ("loss per token", "nats"),
    "perplexity": ("perplexity per token", ""),
    "word_loss": ("loss per word", "nats"),
    "word_perplexity": ("perplexity per word", ""),
    "bits_per_byte": ("bits per byte", ""),
    "bits_per_character": ("bits per character", ""),
}
DOMAIN_MEASURES = ("loss", "perplexity", "bits_per_byte", "bits_per_character")
UNITS = dict(MEASURE_WORDS.values()) | {"entropy per token": "nats"}  # by the name in the first column
PERPLEXITIES = {of: name for name, of in EXPONENTIALS.items()}
MAX_DOMAINS = 40  # rows of the table
_NOT_RESTORED = "the tokenizer loses characters of {}, of which the bits per byte are not those of the original text"
ONE_DOCUMENT = "one document: there is no standard error over documents"


def outcome_tables(outcome: Outcome, text: str) -> str:
    """All results of a request as lines for the terminal."""
    if outcome.lengths:
        model = outcome.models[0]
        heading = f"{escape_unprintable(str(model.folder))}, step {model.step}, on {escape_unprintable(text)}"
        return f"{heading}\n\n{lengths_table(outcome.lengths)}"
    if outcome.pair is not None:
        return pair_table(outcome.pair, text)
    return result_table(outcome.results[0], text)


def result_table(result: Result, text: str) -> str:
    """The result as lines for the terminal; `text` names the measured text."""
    found = tally_as_json(result.tally, result.measures)
    lines = [f"{escape_unprintable(str(result.run))}, step {result.step}, on {escape_unprintable(text)}", ""]
    lines += align([[name, f"{found[name]:,}"] for name in ("documents", "tokens", "words", "bytes")])
    lines += ["", *align(_with_units([["", "value", "standard error"], *measure_rows(result)])), ""]
    if (domains := result.domains) and len(domains) > 1:
        listed = domain_rows({name: tally.measures() for name, tally in domains.items()})
        lines += _columns([*listed[: MAX_DOMAINS + 1], listed[-1]] if len(listed) > MAX_DOMAINS + 2 else listed)
        if len(domains) > MAX_DOMAINS:
            lines.append(f"  and {len(domains) - MAX_DOMAINS:,} domains more: see --json")
        lines.append("")
    if result.details is not None:
        lines += [*align(_with_units(detail_rows(result.details))), "", *_columns(_position_rows(result.details)), ""]
    return "\n".join([*lines, *(f"  {note}" for note in result_notes(result))])


def result_notes(result: Result) -> list[str]:
    """How the numbers of a result were measured, in sentences."""
    notes = [f"window {result.window} tokens, stride {result.stride}; {_first_token_note(result)}"]
    longest = max((each.sums.tokens for each in result.scores), default=result.window)
    if longest < result.window:
        notes.append(f"the longest document has {longest:,} scored tokens: no window was full")
    if len(result.tally.entries) == 1:
        notes.append(ONE_DOCUMENT)
    elif len(result.domains) == len(result.tally.entries):
        notes.append("every domain is one document: standard errors are over the domains")
    if result.documents_not_restored:
        notes.append(_not_restored(result))
    return notes


def measure_rows(result: Result) -> list[list[str]]:
    """A row for each measure: its name, its value, its standard error."""
    rows = []
    for name, (words, _) in MEASURE_WORDS.items():
        if name == "bits_per_character" and name not in result.measures:
            continue
        estimate = result.measures.get(name, UNKNOWN)
        rows.append([words, _format_value(finite_or_none(estimate.value), "not finite"), _error(estimate)])
        if name == "perplexity" and (weighed := result.transformers_perplexity) is not None:
            rows.append(["  as transformers weighs", _format_value(finite_or_none(weighed.value), "not finite"), "-"])
    return rows


def lengths_table(results: Sequence[LengthResult]) -> str:
    """The loss of one text in windows of several lengths."""
    return "\n".join([f"  {lengths_note(results)}", *_columns(length_rows(results))])


def lengths_note(results: Sequence[LengthResult]) -> str:
    """The documents that all lengths are measured on."""
    count = len(results[0].result.tally.entries)
    documents = "the one document that fills" if count == 1 else f"the {count:,} documents that fill"
    return f"{documents} the longest window, in windows of each length (stride: half of it)"


def length_rows(results: Sequence[LengthResult]) -> list[list[str]]:
    """A row of heads, and a row for each length."""
    rows = [["window", "x trained", "loss", "standard error", "perplexity", "bits per byte"]]
    for each in results:
        loss, measures = each.result.measures["loss"], each.result.measures
        rows.append(
            [
                f"{each.length:,}",
                f"{each.ratio:.3g}",
                _number(loss.value),
                _error(loss),
                _number(measures["perplexity"].value),
                _number(measures["bits_per_byte"].value),
            ]
        )
    return rows


def pair_table(pair: Pair, text: str) -> str:
    """Two models on one text: both values of each measure, and the difference with its interval."""
    base, other = (escape_unprintable(f"{one.run}, step {one.step}") for one in (pair.base, pair.other))
    lines = [f"A: {base}", f"B: {other}", f"on {escape_unprintable(text)}", ""]
    counts = [["", "A", "B"], ["documents", *(f"{len(one.tally.entries):,}" for one in (pair.base, pair.other))]]
    for name in COUNTS:
        counts.append([name, *(f"{one.tally.count(name):,}" for one in (pair.base, pair.other))])
    lines += [*_columns(counts), ""]
    if not pair.same_tokenizer:
        lines += [f"  {OTHER_TOKENIZERS}", ""]
    lines += _columns([["", "A", "B", "B - A", "95% interval", "p"], *difference_rows(pair.measures)])
    if details := pair_detail_rows(pair):
        lines += ["", *_columns([["", "A", "B"], *details])]
    if pair.domains:
        rows = []
        for domain, measures in pair.domains.items():
            ((_, *cells),) = difference_rows({name: measures[name] for name in ("bits_per_byte",)})
            rows.append([escape_unprintable(domain), *cells])
        lines += ["", *_columns([["bits per byte of", "A", "B", "B - A", "95% interval", "p"], *rows])]
    return "\n".join([*lines, "", *(f"  {note}" for note in pair_notes(pair))])


def pair_notes(pair: Pair) -> list[str]:
    """How the numbers of two models were measured, in sentences."""
    if all(one.difference is None for one in pair.measures.values()):
        notes = ["there is no interval over documents: they are too few, or a loss is not finite"]
    else:
        notes = ["intervals by a bootstrap over whole documents, which both models share"]
    for name, one in (("A", pair.base), ("B", pair.other)):
        notes.append(f"{name}: window {one.window} tokens, stride {one.stride}; {_first_token_note(one)}")
        if one.documents_not_restored:
            notes.append(_not_restored(one))
    return [*notes, *_details_note(pair)]


def _details_note(pair: Pair) -> Iterator[str]:
    """Why the details of one model, or of both, are not shown."""
    have = [name for name, one in (("A", pair.base), ("B", pair.other)) if one.details is not None]
    if have and not pair.same_tokenizer:
        yield "accuracy, entropy and calibration are per token: these models are not compared by them"
    elif len(have) == 1:
        yield f"accuracy, entropy and calibration were measured of {have[0]} alone"


def difference_rows(measures: Mapping[str, Compared]) -> list[list[str]]:
    """A row for each measure of two models: its name, both values, the difference, its interval, its p-value."""
    rows = []
    for name, one in measures.items():
        if name in PERPLEXITIES:
            values = [math.exp(min(value, 700.0)) for value in (one.base, one.other)]
            rows.append([MEASURE_WORDS[PERPLEXITIES[name]][0], *map(_number, values), "", "", ""])
        difference = one.difference
        interval = "-" if difference is None else f"{difference.low:+.4f} to {difference.high:+.4f}"
        p_value = "-" if difference is None else f"{difference.p_value:.4f}"
        change = f"{one.other - one.base:+.4f}"
        rows.append([MEASURE_WORDS[name][0], _number(one.base), _number(one.other), change, interval, p_value])
    return rows


def domain_rows(domains: Mapping[str, Mapping[str, Estimate]]) -> list[list[str]]:
    """A row of heads, a row for each domain, and their mean."""
    heads = [MEASURE_WORDS[name][0] for name in DOMAIN_MEASURES]
    rows = [["domain", *heads]]
    for domain, measures in [*domains.items(), ("mean of the domains", macro_average(domains.values()))]:
        cells = []
        for name in DOMAIN_MEASURES:
            estimate = measures.get(name, UNKNOWN)
            error = f" ±{_error(estimate)}" if finite_or_none(estimate.standard_error) is not None else ""
            cells.append(_number(estimate.value) + error)
        rows.append([escape_unprintable(domain), *cells])
    return rows


def detail_rows(details: Details) -> list[list[str]]:
    """A row for each number of the details: its name, its value, its standard error."""
    return [
        ["accuracy", format_percent(details.accuracy.value), _error(details.accuracy)],
        [f"among the {TOP} likeliest", format_percent(details.accuracy_top.value), _error(details.accuracy_top)],
        ["entropy per token", _number(details.entropy.value), _error(details.entropy)],
        ["calibration error", _number(details.calibration_error), "-"],
    ]


def pair_detail_rows(pair: Pair) -> list[list[str]]:
    """A row for each number of the details: its name, and the value of each model, "-" where it was not measured.

    None where neither model has details, or where they have different tokens.
    """
    both = [None if one.details is None else detail_rows(one.details) for one in (pair.base, pair.other)]
    known = next((rows for rows in both if rows is not None), [])
    if not pair.same_tokenizer:
        return []
    return [[row[0], *("-" if rows is None else rows[k][1] for rows in both)] for k, row in enumerate(known)]


def _position_rows(details: Details) -> list[list[str]]:
    """A row of heads, and a row for each bin of positions."""
    positions = [["tokens before it", "tokens", "loss", "standard error"]]
    for each in details.positions:
        span = f"{each.first:,}" if each.first == each.last else f"{each.first:,} to {each.last:,}"
        positions.append([span, f"{each.tokens:,}", _number(each.loss.value), _error(each.loss)])
    return positions


def _with_units(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows with a last cell for their unit."""
    return [[*row, UNITS.get(row[0], "")] for row in rows]


def _not_restored(result: Result) -> str:
    return f"WARNING: {_NOT_RESTORED.format(format_counted(result.documents_not_restored, 'document'))}"


def _number(value: float) -> str:
    return _format_value(finite_or_none(value), "-")


def _error(estimate: Estimate) -> str:
    return _format_value(finite_or_none(estimate.standard_error), "-")


def _format_value(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else format_number(value)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table: the first column aligned left, the others right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"] + [f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table: a name aligned left, at most two columns aligned right, and a unit after them."""
    least = (22, 12, 16, 0)
    widths = [max(least[k], *(len(row[k]) for row in rows)) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"] + [f"{cell:>{w}}" for cell, w in zip(row[1:3], widths[1:3], strict=False)]
        lines.append("  " + "  ".join([*cells, *row[3:]]).rstrip())
    return lines


def _first_token_note(result: Result) -> str:
    if result.first_token == "left out":
        count, size = result.left_out_tokens, result.left_out_bytes
        return f"first tokens of documents, which nothing comes before, are not counted ({count:,}, of {size:,} bytes)"
    if result.first_token == "given all other tokens, as every token":
        return "pseudo-perplexity: a token is scored given all others of its window"
    return f"a document's first token is scored {result.first_token}"
