"""A plain path to a folder whose own path some libraries read differently from the system.

Orbax passes paths to `glob`, where brackets, stars and question marks are patterns. Tensorstore turns backslashes into
slashes, cannot read a name that is not UTF-8, and writes UTF-8 in any locale. Both read `gs:` and other schemes as a
bucket anywhere in a path, and etils reads /gs, /s3, /az and /hf as buckets. A symbolic link with a plain name avoids
all of this: without a hook in any library, in every thread, and also if later versions treat paths differently.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import weakref

from model.errors import UserError
from train.files.paths import AnyPath

_PUNCTUATION = frozenset("._+=@,~ /-")  # like letters and digits, these have no special meaning in a path
_BUCKET_ROOTS = frozenset({"gs", "s3", "az", "hf"})


def is_plain(path: pathlib.Path) -> bool:
    """Whether an absolute path has only characters that every library reads literally."""
    text = str(path)
    if not all(c in _PUNCTUATION or c.isalnum() for c in text):
        return False
    if not text.isascii() and sys.getfilesystemencoding() != "utf-8":
        return False
    return path.root == "/" and path.parts[1:2] != () and path.parts[1] not in _BUCKET_ROOTS


class PlainPath:
    """A plain path to a folder, which need not exist yet: `path` is the folder's own path if it is plain, or a link.

    For a folder in a store, `path` has a form that orbax and tensorstore know.

    Raises UserError when a link is needed and there is no place for it.
    """

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        self.path = folder
        if isinstance(folder, pathlib.Path):
            self._folder = folder.absolute()
            self.path = self._folder if is_plain(self._folder) else self._link(self._folder)

    def _link(self, folder: pathlib.Path) -> pathlib.Path:
        for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
            if not is_plain(pathlib.Path(parent).absolute()):
                continue
            try:
                home = pathlib.Path(tempfile.mkdtemp(prefix="cairn-", dir=os.path.abspath(parent)))
                weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
                (home / self._name()).symlink_to(folder)
            except OSError:
                continue
            return home / self._name()
        raise UserError(
            f"the path {str(self._folder)!r} has characters that the checkpoint library misreads, and there is no "
            "folder for temporary files in which to make a link to it; set TMPDIR to a folder that can be written, or "
            "give a path of letters and digits"
        )

    def _name(self) -> str:
        return self._folder.name if is_plain(pathlib.Path("/", "-", self._folder.name)) else "folder"

    def is_intact(self) -> bool:
        """Whether the path still leads to the folder: the system may remove links from its temporary folder."""
        return self.path == self._folder or os.path.islink(self.path)

    def restore_paths(self, text: str) -> str:
        """A message of a library, with the folder's own path in place of the plain path."""
        return text.replace(str(self.path), str(self._folder))
