"""Which checkpoints are kept."""

import dataclasses

from tests.train.states import at_step, open_store
from train.checkpoints.store import CheckpointStore
from train.experiment import Checkpoints


def kept_after(run, experiment, first, losses, **options):
    """The kept steps, and the best of them, after saves at steps 1, 2, ... with these losses."""
    small = dataclasses.replace(first, opt_state={}, params={"w": first.params["final_norm"]["scale"]})
    with open_store(run, **options) as store:
        for step, loss in enumerate(losses, start=1):
            store.save(experiment, at_step(small, step), step, loss)
        store.finish()
        found = store.steps(), store.best_step()
    assert sorted(int(path.name) for path in (run / "checkpoints").iterdir()) == found[0]
    return found


def test_the_last_are_kept(experiment, first, tmp_path):
    assert kept_after(tmp_path, experiment, first, [None] * 5, keep_last=2, keep_best=0) == ([4, 5], None)


def test_every_so_manieth_is_kept(experiment, first, tmp_path):
    options = dict(keep_last=1, keep_every=2, keep_best=0)
    assert kept_after(tmp_path, experiment, first, [None] * 5, **options) == ([2, 4, 5], None)


def test_the_best_is_kept(experiment, first, tmp_path):
    losses = [3.0, 1.0, None, 2.0, float("nan"), 1.5]
    assert kept_after(tmp_path, experiment, first, losses, keep_last=1, keep_best=1) == ([2, 6], 2)


def test_the_best_is_known_to_the_next_session(experiment, first, tmp_path):
    assert kept_after(tmp_path, experiment, first, [2.0, 1.0, 3.0], keep_last=1, keep_best=1) == ([2, 3], 2)
    small = dataclasses.replace(first, opt_state={}, params={"w": first.params["final_norm"]["scale"]})
    with open_store(tmp_path, keep_last=1, keep_best=1) as store:
        assert store.best_step() == 2
        for step, loss in ((4, 2.5), (5, 1.2)):
            store.save(experiment, at_step(small, step), step, loss)
        store.finish()
        assert (store.steps(), store.best_step()) == ([2, 5], 2)


def test_the_last_before_a_step_is_kept_while_the_list_names_it(experiment, first, tmp_path):
    small = dataclasses.replace(first, opt_state={}, params={"w": first.params["final_norm"]["scale"]})
    replayed = []
    options = Checkpoints(keep_last=1, keep_best=0)
    with CheckpointStore(tmp_path, options, lambda line: None, replayed=replayed) as store:
        for step in range(2, 14, 2):
            if step == 6:
                replayed[:] = [5]  # found before the save of step 6
            if step == 10:
                assert (store.finish(), store.steps()) == (None, [4, 8])
                replayed[:] = [9, 1]  # nothing is before step 1
            store.save(experiment, at_step(small, step), step, None)
        store.finish()
        assert store.steps() == [8, 12]
