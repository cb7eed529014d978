import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grain
import numpy as np
import pytest

from litv2_jax.data import pipeline, shared_memory
from litv2_jax.data.workers import count_pieces
from tests.data.test_pipeline import Draw, Keep, Numbers, assert_same, train

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("batch_size", "workers", "pieces"),
    [(1024, 62, 32), (1024, 12, 8), (8, 3, 2), (7, 3, 1), (7, 9, 7), (16, 0, 1)],
)
def test_all_workers_together_hold_a_few_batches(batch_size, workers, pieces):
    assert count_pieces(batch_size, workers) == pieces


def test_workers_that_load_pieces_of_batches_give_the_same_batches():
    """Also the last batch of an evaluation; a signal to all of them changes nothing."""
    batches = pipeline.train_batches(
        Numbers(50),
        Draw(),
        batch_size=8,
        seed=0,
        start_step=3,
        num_workers=2,
        process_index=0,
        process_count=1,
    )
    iterator = iter(batches)
    taken = [next(iterator)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
    taken += [next(iterator) for _ in range(13)]
    assert all(worker.is_alive() for worker in workers)
    iterator.close()
    assert not any(worker.is_alive() for worker in workers)
    found = {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}
    assert_same(found, train(14, start=3))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [3, pipeline.CHOOSE_WORKERS])
def test_evaluation_by_workers_sees_every_record_once(workers):
    batches = pipeline.eval_batches(
        Numbers(20),
        Keep(),
        batch_size=6,
        num_workers=workers,
        process_index=0,
        process_count=1,
    )
    found = [batch["number"][batch["valid"]] for batch in batches]
    assert [len(batch) for batch in found] == [6, 6, 6, 2]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(20))


def test_grain_chooses_the_number_of_workers_by_cores_and_memory(monkeypatch):
    rows = grain.MapDataset.range(64).map(lambda _: {"x": np.zeros((512, 512), "f4")})
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    monkeypatch.setattr(
        "grain._src.python.dataset.transformations.prefetch_autotune.cpu_count",
        lambda: 9,
    )
    sizes = {"SC_AVPHYS_PAGES": 4096, "SC_PAGE_SIZE": 2**20}
    monkeypatch.setattr(os, "sysconf", sizes.get)
    monkeypatch.setattr(shared_memory, "_free", lambda: 4 * 2**30)
    # A quarter of 4 GiB holds four batches of 256 images of a megabyte.
    assert pipeline.choose_num_workers(rows, 256) == 4
    assert pipeline.choose_num_workers(rows, 16) == 8
    assert pipeline.choose_num_workers(rows, 4096) == 0
    # Eight workers keep 42 pieces of two images there; fewer keep larger ones.
    monkeypatch.setattr(shared_memory, "_free", lambda: 84 * 2**20)
    assert pipeline.choose_num_workers(rows, 16) == 8
    monkeypatch.setattr(shared_memory, "_free", lambda: 64 * 2**20)
    assert pipeline.choose_num_workers(rows, 16) == 0


PROGRAM = """
import sys, time
from tests.data.test_pipeline import Draw, Numbers
from litv2_jax.data import pipeline

if __name__ == "__main__":
    batches = iter(pipeline.train_batches(Numbers(50), Draw(), batch_size=8, seed=0,
        start_step=0, num_workers=2, process_index=0, process_count=1))
    next(batches)
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
