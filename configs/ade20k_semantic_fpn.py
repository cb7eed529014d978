"""Semantic FPN with LITv2 on ADE20K (arXiv:2205.13213): 80,000 updates.

    python train.py --config configs/ade20k_semantic_fpn.py:litv2_s \\
        --config.weights=weights/litv2_s --workdir runs/ade20k_s

| argument | published mIoU |
|----------|----------------|
| litv2_s  | 44.3 %         |
| litv2_m  | 45.7 %         |
| litv2_b  | 47.2 %         |

`weights` is a checkpoint of the classifier trained on ImageNet, as
convert_torch_weights.py makes one of a published file; its backbone is taken. These
scores have not been reproduced with this code.
"""

from ml_collections import ConfigDict

DROP_PATH_RATE = {"litv2_s": 0.2, "litv2_m": 0.2, "litv2_b": 0.3}

# 20,210 images in batches of 16, the last incomplete one left out.
UPDATES_PER_EPOCH = 1263


def get_config(model: str = "litv2_s") -> ConfigDict:
    if model not in DROP_PATH_RATE:
        known = ", ".join(DROP_PATH_RATE)
        raise ValueError(f"No recipe for {model!r}; there are {known}.")
    config = ConfigDict()
    config.task = "segmentation"
    config.seed = 0
    config.epochs = 80_000 / UPDATES_PER_EPOCH
    config.batch_size = 16  # Over all devices.
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 2  # As on each GPU there; the head's is all 16.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.eval_every_epochs = 8_000 / UPDATES_PER_EPOCH
    config.checkpoint_every_steps = 1000  # And at evaluations.
    config.log_every_steps = 50
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # The published runs begin from ImageNet: see above.
    config.weights_head = "new"  # Where classes differ; keep takes the old one.
    config.ema_decay = 0.0  # Of averaged weights; 0 keeps none.

    config.model = ConfigDict()
    config.model.name = f"semantic_fpn_{model}"
    config.model.drop_path_rate = DROP_PATH_RATE[model]
    config.model.dtype = "float32"  # As published; bfloat16 is faster.
    config.model.sizes = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "ade20k"
    config.data.data_dir = ""  # Where TFDS keeps its data sets by default.
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.scale = (2048, 512)  # Longest and shortest side, in pixels.
    config.data.ratio = (0.5, 2.0)  # Factors on it, in training.
    config.data.crop_size = 512  # Pixels.
    config.data.max_class_share = 0.75  # Of a crop.
    config.data.flip = 0.5
    config.data.distortion = 1.0
    config.data.zero_label = "ignored"
    config.data.eval_multiple = 32  # Pixels, of the canvases; no score depends on it.
    config.data.num_workers = 8
    config.data.max_unreadable = 10  # Images, before the run stops.

    config.eval = ConfigDict()
    config.eval.tta = "none"  # Or flip or multiscale: see docs/segmentation.md.

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_learning_rate = 1e-4
    config.optimizer.end_learning_rate = 1e-6
    config.optimizer.base_batch_size = 16
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 0.0  # Off.
    config.optimizer.schedule = "polynomial"
    config.optimizer.groups = ()  # Path, factors on learning rate and weight decay.
    return config
