"""Markdown tables that are also readable as plain text."""


def table(head, rows):
    """Returns a table as aligned lines, with numbers to the right."""
    rows = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    cells = [list(head), *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [
        all(row[i].replace(",", "").replace(".", "").isdigit() or not row[i] for row in rows) for i in range(len(head))
    ]

    def line(row):
        padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, rows)])
