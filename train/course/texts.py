"""The two texts of the course, made from what every Python has: English about Python, and Python itself.

english.txt is the help on keywords and topics (`help("topics")`), python.txt are sources of the standard library. Both
have about 450 kB and differ a little from one version of Python to the next.
"""

import pathlib
import sysconfig

from model.errors import UserError
from train.files.files import replace_file

NAMES = ("english", "python")
# Packages of plain code, without tables or tests.
PACKAGES = ("asyncio", "concurrent", "email", "html", "http", "json", "logging", "urllib")
MOST_BYTES = 460_000


def english() -> str:
    """The help on the topics of the language, in the order of their names. Raises UserError where Python has none."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "this Python has no pydoc_data.topics, from which the course takes its English text; install the whole "
            "standard library (on Debian: libpython3-stdlib)"
        ) from error
    return "\n\n\n".join(text.strip() for _, text in sorted(topics.items())) + "\n"


def python() -> str:
    """Sources of the standard library, whole files up to `MOST_BYTES`."""
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    found, size = [], 0
    for package in PACKAGES:
        for path in sorted((library / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if size + len(text) <= MOST_BYTES:
                found.append(text)
                size += len(text)
    return "\n".join(found)


def write_texts(folder: pathlib.Path) -> None:
    """Writes the texts that a folder does not have yet; later lessons read the same bytes. Raises UserError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in zip(NAMES, (english, python), strict=True):
        path = folder / f"{name}.txt"
        if not path.exists():
            replace_file(path, make().encode())
