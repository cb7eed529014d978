import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from litv2_jax.data import pipeline, shared_memory
from litv2_jax.data.shared_memory import check_shared_memory
from litv2_jax.settings import ConfigError
from tests.data.test_pipeline import Draw

ROW = {"image": np.zeros((224, 224, 3), np.uint8), "label": np.int32(3)}


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are free in /dev/shm."""

    def set_free(size):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda folder: SimpleNamespace(free=size)
        )

    return set_free


def test_a_container_with_64_megabytes_is_told_what_to_do(free):
    free(64 * 2**20)
    # Two pieces of 200 images for each batch.
    message = (
        r"/dev/shm has 64 MB free, but 2 worker processes may keep 345 MB of batches "
        r"there: make it larger \(docker run --shm-size=1g\), or load in threads with "
        r"--config.data.num_workers=0, or use fewer workers"
    )
    with pytest.raises(ConfigError, match=message):
        check_shared_memory(ROW, 200, 2)
    check_shared_memory(ROW, 200, 0)
    check_shared_memory(ROW, 8, 2)
    free(400 * 2**20)
    check_shared_memory(ROW, 200, 2)


def test_where_there_is_no_such_folder_nothing_is_checked(free, tmp_path, monkeypatch):
    free(0)
    monkeypatch.setattr(shared_memory, "_FOLDER", tmp_path / "absent")
    check_shared_memory(ROW, 10**6, 8)


def test_it_is_checked_before_workers_start(free):
    class Numbers:
        def __len__(self):
            return 50

        def __getitem__(self, index):
            return index

    free(1000)
    options = {"batch_size": 40, "process_index": 0, "process_count": 1}
    train = {"seed": 0, "start_step": 0, **options}
    with pytest.raises(ConfigError, match="/dev/shm has 0 MB free"):
        pipeline.train_batches(Numbers(), Draw(), num_workers=2, **train)
    pipeline.train_batches(Numbers(), Draw(), num_workers=0, **train)
