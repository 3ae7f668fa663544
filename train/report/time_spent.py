"""The report's section about the time of a run: by activity, with the restarts, and the operations of a profile."""

from __future__ import annotations

from typing import Any

from train.report.run import HeadlineNumber, RunData
from train.run.time_spent import ACTIVITIES, goodput
from train.terminal.formatting import format_duration, format_percent


def goodput_headline(run: RunData) -> list[HeadlineNumber]:
    """The share of the time that went into the steps of the result; nothing if it was not recorded."""
    found = goodput(run.time_spent)
    if found is None:
        return []
    sessions = len(run.time_spent)
    note = f"of {format_duration(found.total)}" + (f" and {sessions} sessions" if sessions > 1 else "")
    return [HeadlineNumber(label="Time in training steps", value=format_percent(found.share), note=note)]


def time_rows(run: RunData) -> list[tuple[str, str, str, bool]]:
    """Rows (activity, time, share in per cent, whether it is the training itself); without activities of no time."""
    found = goodput(run.time_spent)
    if found is None:
        return []
    seconds = {ACTIVITIES[name]: spent for name, spent in found.activities.items()}
    seconds |= {"steps done again after a restart": found.repeated, "between two sessions": found.stopped}
    total = found.total or 1.0
    return [
        (name, f"{format_duration(spent)}, {format_percent(spent / total)}", f"{spent / total * 100:.1f}", not index)
        for index, (name, spent) in enumerate(seconds.items())
        if spent >= 0.0005 * total or not index
    ]


def profile_rows(run: RunData) -> list[dict[str, Any]]:
    """The operations with most time in the run's last profile, as the table of the page shows them."""
    return [
        {"name": str(row["name"]), "share": format_percent(row["share"]), "count": f"{row['count']:,}"}
        for row in run.profile.get("operations", [])
        if {"name", "share", "count"} <= row.keys()
    ]
