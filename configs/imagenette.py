"""LITv2-S on Imagenette: ten classes of ImageNet at full size, for trying things out.

    python train.py --config configs/imagenette.py --workdir runs/imagenette

The recipe is ImageNet's, shortened; no accuracy has been measured with it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "classification"
    config.seed = 0
    config.epochs = 100.0
    config.batch_size = 256  # Over all devices.
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 0  # At evaluations alone.
    config.log_every_steps = 50
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # From scratch.
    config.weights_head = "new"  # Where classes differ; keep takes the old one.
    config.ema_decay = 0.0  # Of averaged weights; 0 keeps none.

    config.model = ConfigDict()
    config.model.name = "litv2_s"
    config.model.drop_path_rate = 0.1
    config.model.dtype = "bfloat16"  # Of activations; parameters stay float32.
    config.model.sizes = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "imagenette"
    config.data.data_dir = ""  # Where TFDS keeps its data sets by default.
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.eval_fraction = 0.0  # Of a tree without such a folder.
    config.data.image_size = 224
    config.data.scale = (0.25, 1.0)  # Of the area.
    config.data.ratio = (3 / 4, 4 / 3)  # Width over height.
    config.data.flip = 0.5
    config.data.eval_crop = 0.875
    config.data.num_workers = 4
    config.data.max_unreadable = 0  # Images, before the run stops.
    config.data.exif = "ignored"  # As published; applied turns images upright.

    config.eval = ConfigDict()
    config.eval.tta = "none"  # Or flip: mirrored as well, and averaged.

    config.augment = ConfigDict()
    config.augment.randaugment_layers = 2
    config.augment.randaugment_magnitude = 9.0  # Of 10.
    config.augment.randaugment_std = 0.5
    config.augment.randaugment_on = "device"  # Or host, where images are loaded.
    config.augment.erasing = 0.25
    config.augment.mixup = 0.8
    config.augment.cutmix = 1.0
    config.augment.mixup_switch = 0.5
    config.augment.mix_group_size = 128  # Images of one draw; 0 for the whole batch.
    config.augment.label_smoothing = 0.1

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 5e-4  # At 512 images.
    config.optimizer.warmup_learning_rate = 5e-7
    config.optimizer.end_learning_rate = 5e-6
    config.optimizer.base_batch_size = 512
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "cosine"  # Or polynomial.
    config.optimizer.groups = (  # Path, factors on learning rate and weight decay.
        ("offset/kernel$", 0.01, 1.0),
        ("(bias|scale)$", 1.0, 0.0),
    )
    return config
