"""The key-value store of several processes as a dictionary, for processes that are threads of one test."""

import threading

from train.process.hosts import Group
from train.process.watch import Watch


class MemoryStore:
    """Has the methods of train.process.watch.Store."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def put(self, key, value):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def get(self, key, seconds):
        with self.changed:
            self.changed.wait_for(lambda: key in self.values, seconds)
            return self.values.get(key)

    def wait(self, key):
        value = self.get(key, 20)
        assert value is not None, f"nobody put {key}"
        return value

    def delete(self, folder):
        with self.changed:
            self.values = {key: value for key, value in self.values.items() if not key.startswith(folder)}

    def next_number(self, key):
        with self.changed:
            self.values[key] = str(int(self.values.get(key, 0)) + 1)
            return int(self.values[key])

    def read_folder(self, folder):
        with self.changed:
            return {int(key.removeprefix(folder)): x for key, x in self.values.items() if key.startswith(folder)}

    def numbers(self, folder):
        return set(self.read_folder(folder))


def groups(count, started=None):
    """The views of `count` processes that share a store; the watches of the `started` ones run, by default all."""
    store, names = MemoryStore(), [f"host{index}" for index in range(count)]
    made = [Group(index, count, names, store, Watch(store, index, names)) for index in range(count)]
    for group in made if started is None else [made[index] for index in started]:
        group.watch.start()
    return made
