"""From weights to classes of your own: a folder of images, in one command.

    python train.py --config configs/finetune.py:litv2_s --workdir runs/pets \\
        --config.data.data_dir=pets --config.weights=litv2_s.pth

`litv2_s`, `litv2_m` and `litv2_b` train everything, the layers near the images less;
`linear` trains a linear head on the frozen features of LITv2-S.

The folder has one for each class, `pets/cat/any_name.jpg`, a fifth of which is held out
to evaluate on; or `pets/train` and `pets/val` with those folders. No accuracy has been
measured with published weights; `make demo-finetune` is measured in docs/finetuning.md.
"""

from typing import Any

from ml_collections import ConfigDict

from litv2_jax.layer_groups import layer_groups

DEPTHS = {"litv2_s": (2, 2, 6, 2), "litv2_m": (2, 2, 18, 2), "litv2_b": (2, 2, 18, 2)}
DROP_PATH = {"litv2_s": 0.1, "litv2_m": 0.2, "litv2_b": 0.3}


def get_config(name: str = "litv2_s") -> ConfigDict:
    if name == "linear":
        return _linear()
    if name not in DEPTHS:
        known = ", ".join([*DEPTHS, "linear"])
        raise ValueError(f"No recipe for {name!r}; there are {known}.")
    return _finetune(name)


def _finetune(name: str) -> ConfigDict:
    config = ConfigDict()
    config.task = "classification"
    config.seed = 0
    config.epochs = 20.0
    config.batch_size = 64  # Over all devices; a set with fewer images needs less.
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 0  # At evaluations alone.
    config.log_every_steps = 10
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # To be given: a .pth file, a run, a folder.
    config.weights_head = "new"  # Where classes differ; keep takes the old one.
    config.ema_decay = 0.998  # Of averaged weights; 0 keeps none.

    config.model = ConfigDict()
    config.model.name = name
    config.model.drop_path_rate = DROP_PATH[name]
    config.model.dtype = "bfloat16"  # Of activations; parameters stay float32.
    config.model.sizes = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "folder"
    config.data.data_dir = "data"  # The folder.
    config.data.train_split = "train"  # Where there are two, or else all of it.
    config.data.eval_split = "val"
    config.data.eval_fraction = 0.2  # Held out where there is no val.
    config.data.image_size = 224
    config.data.scale = (0.35, 1.0)  # Of the area.
    config.data.ratio = (3 / 4, 4 / 3)  # Width over height.
    config.data.flip = 0.5
    config.data.eval_crop = 0.875
    config.data.num_workers = 4
    config.data.max_unreadable = 0  # Images, before the run stops.
    config.data.exif = "applied"  # Photographs are turned upright.

    config.eval = ConfigDict()
    config.eval.tta = "none"  # Or flip: mirrored as well, and averaged.

    config.augment = ConfigDict()
    config.augment.randaugment_layers = 2
    config.augment.randaugment_magnitude = 9.0  # Of 10.
    config.augment.randaugment_std = 0.5
    config.augment.randaugment_on = "device"  # Or host, where images are loaded.
    config.augment.erasing = 0.1
    config.augment.mixup = 0.0
    config.augment.cutmix = 0.0
    config.augment.mixup_switch = 0.5
    config.augment.mix_group_size = 0  # The whole batch.
    config.augment.label_smoothing = 0.1

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 4e-4  # Of the head, at 64 images.
    config.optimizer.warmup_learning_rate = 1e-6
    config.optimizer.end_learning_rate = 1e-6
    config.optimizer.base_batch_size = 64
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "cosine"  # Or polynomial.
    config.optimizer.groups = layer_groups(DEPTHS[name], 0.75)
    return config


def _linear() -> ConfigDict:
    config: Any = _finetune("litv2_s")
    config.ema_decay = 0.0
    config.freeze_batch_norm = True
    config.model.drop_path_rate = 0.0
    config.augment.randaugment_layers = 0
    config.augment.erasing = 0.0
    config.augment.label_smoothing = 0.0
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.groups = (  # Path, factors on learning rate and weight decay.
        ("^(backbone|norm)/", 0.0, 0.0),
        ("bias$", 1.0, 0.0),
    )
    return config
