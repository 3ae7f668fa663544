"""A path that every library reads as the system does, for a folder whose own path some of them read otherwise.

Orbax hands paths to `glob`, where brackets, stars and question marks are patterns. Tensorstore turns backslashes into
slashes, cannot take a name that is no UTF-8, and writes UTF-8 in any locale. Both take `gs:` and the like for a bucket
wherever it stands, and etils takes /gs, /s3, /az and /hf for buckets. A symbolic link with a plain name leads round all
of that, without a hook in any of them, in every thread, and for what they do to paths in later versions.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import weakref

from model.errors import UserError
from train.files.paths import AnyPath

_MARKS = frozenset("._+=@,~ /-")  # that stand in a path for themselves, as letters and digits do
_BUCKETS = frozenset({"gs", "s3", "az", "hf"})


def is_plain(path: pathlib.Path) -> bool:
    """Whether an absolute path is of characters that no library reads as anything but themselves."""
    text = str(path)
    if not all(c in _MARKS or c.isalnum() for c in text):
        return False
    if not text.isascii() and sys.getfilesystemencoding() != "utf-8":
        return False
    return path.root == "/" and path.parts[1:2] != () and path.parts[1] not in _BUCKETS


class PlainPath:
    """A way to a folder, which need not be there yet: `path` is plain, and is the folder's own path if that is.

    A path in a store is one that orbax and tensorstore know.

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
            f"the path {str(self._folder)!r} has characters that the checkpoint library takes for something else, and "
            "there is no folder for temporary files to lead round them; set TMPDIR to one that can be written, or give "
            "a path of letters and digits"
        )

    def _name(self) -> str:
        return self._folder.name if is_plain(pathlib.Path("/", "-", self._folder.name)) else "folder"

    def intact(self) -> bool:
        """Whether the path still leads to the folder: links in a folder of temporary files may be cleared away."""
        return self.path == self._folder or os.path.islink(self.path)

    def named(self, text: str) -> str:
        """A message of a library, with the folder's own path in place of the plain one."""
        return text.replace(str(self.path), str(self._folder))
