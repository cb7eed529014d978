"""Makes the data set `photos` known to TFDS, for tests that need pictures in files.

`prepare(data_dir)` writes it in seconds; `ImageSource("photos", "train", data_dir)`
then reads it, also in a process that never imports this file.
"""

from benchmarks.photos import TINTS, Photos, PhotosConfig, prepare

__all__ = ["TINTS", "Photos", "PhotosConfig", "prepare"]
