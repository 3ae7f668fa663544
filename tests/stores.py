"""Object stores that are folders of this machine: gs:// and s3://, for etils and for tensorstore.

Nothing in them can be reached but by the door of a store: a name such as gs://bucket/x is no file of the system, so a
call of `os` or `pathlib` that goes round etils finds nothing, or leaves a folder `gs:` behind.
"""

import contextlib
import glob
import os
import pathlib
import shutil

from etils.epath import backend, gpath, stat_utils
from orbax.checkpoint._src.path import gcs_utils


class Store(backend.Backend):
    """An object store: whole objects, no appending, no renaming of folders. `opened` are the names that were read."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.opened = []

    def local_path(self, path):
        """The file of this machine that stands for an object."""
        text = os.fspath(path)
        assert "://" in text, f"{text} is no path in a store"
        return str(self.root / text.replace("://", "/"))

    def open(self, path, mode):
        assert "a" not in mode, "a store has no appending"
        self.opened.append(os.fspath(path))
        return open(self.local_path(path), mode)

    def exists(self, path):
        return os.path.exists(self.local_path(path))

    def isdir(self, path):
        return os.path.isdir(self.local_path(path))

    def listdir(self, path):
        return os.listdir(self.local_path(path))

    def glob(self, path):
        back = lambda found: os.path.relpath(found, self.root).replace("/", "://", 1)  # noqa: E731
        return [back(found) for found in glob.glob(self.local_path(path))]

    def walk(self, top, *, top_down=True, on_error=None):
        for where, folders, names in os.walk(self.local_path(top), topdown=top_down, onerror=on_error):
            yield os.path.relpath(where, self.root).replace("/", "://", 1), folders, names

    def makedirs(self, path, *, exist_ok=False, mode=None):
        os.makedirs(self.local_path(path), exist_ok=exist_ok)

    def mkdir(self, path, *, exist_ok=False, mode=None):
        with contextlib.suppress(FileExistsError) if exist_ok else contextlib.nullcontext():
            os.mkdir(self.local_path(path))

    def rmtree(self, path):
        shutil.rmtree(self.local_path(path))

    def remove(self, path):
        os.remove(self.local_path(path))

    def rename(self, path, dst):
        raise AssertionError("a store has no renaming")

    replace = rename

    def copy(self, path, dst, overwrite):
        shutil.copyfile(self.local_path(path), self.local_path(dst))

    def stat(self, path):
        about = os.stat(self.local_path(path))
        return stat_utils.StatResult(
            is_directory=os.path.isdir(self.local_path(path)), length=about.st_size, mtime=int(about.st_mtime)
        )


def install(monkeypatch, tmp_path):
    """Makes gs:// and s3:// folders below one of this machine; the working folder is one where nothing may appear."""
    store = Store(tmp_path / "store")
    store.root.mkdir()
    for scheme in ("gs", "s3"):
        monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, scheme, store)

    def kvstore(path):
        return {"driver": "file", "path": store.local_path(path)}

    monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", kvstore)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    monkeypatch.setenv("CAIRN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return store
