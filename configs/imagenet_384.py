"""LITv2-B on ImageNet-1k, fine-tuned for 30 epochs at 384 pixels; published: 84.7 %.

    python train.py --config configs/imagenet_384.py --workdir runs/b_384 \\
        --config.weights=runs/b

Starts from the best checkpoint of a run at 224 pixels, or from converted weights.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "classification"
    config.seed = 0
    config.epochs = 30.0
    config.batch_size = 1024  # Over all devices.
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.eval_every_epochs = 1.0
    config.checkpoint_every_steps = 500  # And at evaluations.
    config.log_every_steps = 50
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = "runs/b"
    config.weights_head = "new"  # Where classes differ; keep takes the old one.
    config.ema_decay = 0.0  # Of averaged weights; 0 keeps none.

    config.model = ConfigDict()
    config.model.name = "litv2_b_384"
    config.model.drop_path_rate = 0.5
    config.model.dtype = "bfloat16"  # Of activations; parameters stay float32.
    config.model.sizes = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "imagenet2012"
    config.data.data_dir = ""  # Where TFDS keeps its data sets by default.
    config.data.train_split = "train"
    config.data.eval_split = "validation"
    config.data.eval_fraction = 0.0  # Of a tree without such a folder.
    config.data.image_size = 384
    config.data.scale = (0.08, 1.0)  # Of the area.
    config.data.ratio = (3 / 4, 4 / 3)  # Width over height.
    config.data.flip = 0.5
    config.data.eval_crop = 1.0  # The whole image, squeezed.
    config.data.num_workers = 12
    config.data.max_unreadable = 100  # Images, before the run stops.
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
    config.optimizer.learning_rate = 2e-5  # At 512 images; 4e-5 at 1024.
    config.optimizer.warmup_learning_rate = 2e-8
    config.optimizer.end_learning_rate = 2e-7
    config.optimizer.base_batch_size = 512
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 1e-8
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "cosine"  # Or polynomial.
    config.optimizer.groups = (  # Path, factors on learning rate and weight decay.
        ("offset/kernel$", 0.01, 1.0),
        ("(bias|scale)$", 1.0, 0.0),
    )
    return config
