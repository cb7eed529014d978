"""RetinaNet with LITv2 on COCO (arXiv:2205.13213): 12 epochs.

    python train.py --config configs/coco_retinanet.py:litv2_s \\
        --config.weights=weights/litv2_s --workdir runs/coco_retinanet_s

| argument        | published box AP |
|-----------------|------------------|
| litv2_s         | 44.0             |
| litv2_s_window4 | 43.7             |
| litv2_m         | 46.0             |
| litv2_m_window4 | 45.8             |
| litv2_b         | 46.7             |
| litv2_b_window4 | 46.3             |

`weights` is a checkpoint of the classifier trained on ImageNet, as
convert_torch_weights.py makes one of a published file; its backbone is taken.
`python -m litv2_jax.prepare coco` makes the data. These scores have not been reproduced
with this code.
"""

from ml_collections import ConfigDict

MODEL = "retinanet"
DROP_PATH_RATE = {"litv2_s": 0.2, "litv2_m": 0.2, "litv2_b": 0.3}
REMAT = {"litv2_s": "none", "litv2_m": "none", "litv2_b": "blocks"}

# 117,266 images in batches of 16, of which the original has one more.
STEPS_PER_EPOCH = 7330


def get_config(model: str = "litv2_s") -> ConfigDict:
    size = model.removesuffix("_window4")
    if size not in DROP_PATH_RATE:
        known = ", ".join(f"{x}, {x}_window4" for x in DROP_PATH_RATE)
        raise ValueError(f"No recipe for {model!r}; there are {known}.")
    config = ConfigDict()
    config.task = "detection"
    config.seed = 0
    config.epochs = 12.0
    config.batch_size = 16  # Over all devices.
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 2  # As on each GPU there.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = REMAT[size]  # Blocks: slower, in less memory.
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 1000  # And at evaluations.
    config.log_every_steps = 50
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # The published runs begin from ImageNet: see above.

    config.model = ConfigDict()
    config.model.name = f"{MODEL}_{model}"
    config.model.drop_path_rate = DROP_PATH_RATE[size]
    config.model.dtype = "bfloat16"  # The original computes in float16.
    config.model.sizes = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "coco"
    config.data.data_dir = ""  # Where TFDS keeps its data sets by default.
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.scale = (1333, 800)  # Longest and shortest side, in pixels.
    config.data.canvases = (  # Height and width; a batch is on one.
        (800, 1088),
        (800, 1216),
        (800, 1344),
        (1088, 800),
        (1216, 800),
        (1344, 800),
    )
    config.data.flip = 0.5
    config.data.max_objects = 100  # Of an image, in training.
    config.data.empty_images = "skipped"  # Without annotations, in training.
    config.data.eval_multiple = 32  # Pixels, of the canvases; no score depends on it.
    config.data.num_workers = 8
    config.data.max_unreadable = 10  # Images, before the run stops.

    config.detector = ConfigDict()
    config.detector.loss_group_size = 2  # As on each GPU there; 0 for the whole batch.

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_learning_rate = 1e-7
    config.optimizer.end_learning_rate = 1e-6
    config.optimizer.base_batch_size = 16
    config.optimizer.warmup_epochs = 500 / STEPS_PER_EPOCH
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.0  # Off.
    config.optimizer.schedule = "step"
    config.optimizer.drop_epochs = (8.0, 11.0)  # Each time to a tenth.
    # The original's exception for norms has no effect: everything decays.
    config.optimizer.groups = ()  # Path, factors on learning rate and weight decay.
    return config
