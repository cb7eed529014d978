"""Toy recipes that run on a laptop without any download.

digits: handwritten digits, 360 test images, expected top-1 above 97 %
    python train.py --config configs/demo.py:digits --workdir runs/digits

digits-0-4: five of the digits, from a tree of files, to fine-tune from
finetune: the other five, with 5 images of each, from these weights
    make demo-finetune

shapes: drawn shapes to segment, 100 test images, expected mIoU above 80 %
    python train.py --config configs/demo.py:shapes --workdir runs/shapes
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(name: str = "digits") -> ConfigDict:
    recipes = {
        "digits": _digits,
        "digits-0-4": _first_digits,
        "finetune": _finetune,
        "shapes": _shapes,
    }
    if name not in recipes:
        raise ValueError(f"No recipe for {name!r}; there are {', '.join(recipes)}.")
    return recipes[name]()


def _digits() -> ConfigDict:
    config = ConfigDict()
    config.task = "classification"
    config.epochs = 15.0
    config.batch_size = 64  # Over all devices.
    config.eval_every_epochs = 3.0
    config.seed = 0
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.checkpoint_every_steps = 0  # At evaluations alone.
    config.log_every_steps = 10
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # From scratch.
    config.weights_head = "new"  # Where classes differ; keep takes the old one.
    config.ema_decay = 0.0  # Of averaged weights; 0 keeps none.

    config.model = ConfigDict()
    config.model.name = "litv2_s"
    config.model.drop_path_rate = 0.05
    config.model.dtype = "float32"
    config.model.sizes = ConfigDict()
    config.model.sizes.embed_dim = 16
    config.model.sizes.depths = (1, 1, 2, 1)
    config.model.sizes.num_heads = (1, 2, 4, 8)

    config.data = ConfigDict()
    config.data.name = "digits"
    config.data.data_dir = "runs/datasets"
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.eval_fraction = 0.0  # Of a tree without such a folder.
    config.data.image_size = 64
    config.data.scale = (0.7, 1.0)  # Of the area.
    config.data.ratio = (0.8, 1.25)  # Width over height.
    config.data.flip = 0.0  # A mirrored digit is none.
    config.data.eval_crop = 1.0
    config.data.num_workers = 0
    config.data.max_unreadable = 0  # Images, before the run stops.
    config.data.exif = "ignored"  # As published; applied turns images upright.

    config.eval = ConfigDict()
    config.eval.tta = "none"  # Or flip: mirrored as well, and averaged.

    config.augment = ConfigDict()
    config.augment.randaugment_layers = 0
    config.augment.randaugment_magnitude = 9.0  # Of 10.
    config.augment.randaugment_std = 0.5
    config.augment.randaugment_on = "device"  # Or host, where images are loaded.
    config.augment.erasing = 0.0
    config.augment.mixup = 0.0
    config.augment.cutmix = 0.0
    config.augment.mixup_switch = 0.5
    config.augment.mix_group_size = 0  # The whole batch.
    config.augment.label_smoothing = 0.1

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_learning_rate = 1e-5
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.base_batch_size = 64
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "cosine"  # Or polynomial.
    config.optimizer.groups = (  # Path, factors on learning rate and weight decay.
        ("offset/kernel$", 0.01, 1.0),
        ("(bias|scale)$", 1.0, 0.0),
    )
    return config


def _first_digits() -> ConfigDict:
    config: Any = _digits()
    config.epochs = 10.0
    config.data.name = "folder"
    config.data.data_dir = "runs/datasets/digits-0-4"
    config.data.eval_split = "val"
    return config


def _finetune() -> ConfigDict:
    config: Any = _first_digits()
    config.epochs = 10.0
    config.batch_size = 8  # Over all devices.
    config.eval_every_epochs = 5.0
    config.log_every_steps = 3
    config.weights = "runs/digits-0-4"
    config.ema_decay = 0.9  # Of averaged weights; 0 keeps none.
    config.data.data_dir = "runs/datasets/digits-5-9"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.base_batch_size = 8
    return config


def _shapes() -> ConfigDict:
    config = ConfigDict()
    config.task = "segmentation"
    config.epochs = 20.0
    config.batch_size = 32  # Over all devices.
    config.eval_every_epochs = 10.0
    config.seed = 0
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.checkpoint_every_steps = 0  # At evaluations alone.
    config.log_every_steps = 10
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # From scratch.
    config.weights_head = "new"  # Where classes differ; keep takes the old one.
    config.ema_decay = 0.0  # Of averaged weights; 0 keeps none.

    config.model = ConfigDict()
    config.model.name = "semantic_fpn_litv2_s"
    config.model.drop_path_rate = 0.05
    config.model.dtype = "float32"
    config.model.sizes = ConfigDict()
    config.model.sizes.embed_dim = 24
    config.model.sizes.depths = (1, 1, 2, 1)
    config.model.sizes.num_heads = (1, 2, 4, 8)
    config.model.sizes.fpn_dim = 64
    config.model.sizes.head_dim = 64

    config.data = ConfigDict()
    config.data.name = "shapes"
    config.data.data_dir = "runs/datasets"
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.scale = (128, 96)  # Longest and shortest side, in pixels.
    config.data.ratio = (0.8, 1.25)  # Factors on it.
    config.data.crop_size = 64
    config.data.max_class_share = 0.9
    config.data.flip = 0.5
    config.data.distortion = 0.0  # Their hues tell the classes apart.
    config.data.zero_label = "class"  # The background.
    config.data.eval_multiple = 64
    config.data.num_workers = 0
    config.data.max_unreadable = 0  # Images, before the run stops.

    config.eval = ConfigDict()
    config.eval.tta = "none"  # Or flip or multiscale: see docs/segmentation.md.

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_learning_rate = 1e-5
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.base_batch_size = 32
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "cosine"  # Or polynomial.
    config.optimizer.groups = (  # Path, factors on learning rate and weight decay.
        ("(bias|scale)$", 1.0, 0.0),
    )
    return config
