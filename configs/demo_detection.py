"""Toy recipe of detection that runs on a laptop without any download.

A RetinaNet on drawn shapes, 100 test images, expected box AP above 55 %:

    python train.py --config configs/demo_detection.py --workdir runs/detection
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.task = "detection"
    config.epochs = 15.0
    config.batch_size = 16  # Over all devices.
    config.eval_every_epochs = 5.0
    config.seed = 0
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = False  # True keeps running statistics.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.checkpoint_every_steps = 0  # At evaluations alone.
    config.log_every_steps = 25
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # From scratch.

    config.model = ConfigDict()
    config.model.name = "retinanet_litv2_s"
    config.model.drop_path_rate = 0.05
    config.model.dtype = "float32"
    config.model.sizes = ConfigDict()
    config.model.sizes.embed_dim = 24
    config.model.sizes.depths = (1, 1, 2, 1)
    config.model.sizes.num_heads = (1, 2, 4, 8)
    config.model.sizes.fpn_dim = 64
    config.model.sizes.head_dim = 64
    config.model.sizes.num_convs = 2

    config.data = ConfigDict()
    config.data.name = "shapes"
    config.data.data_dir = "runs/datasets"
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.scale = (128, 128)  # Longest and shortest side, in pixels.
    config.data.canvases = ((128, 128),)  # Height and width; a batch is on one.
    config.data.flip = 0.5
    config.data.max_objects = 8  # Of an image, in training.
    config.data.empty_images = "skipped"  # Without annotations, in training.
    config.data.eval_multiple = 128  # Pixels, of the canvases.
    config.data.num_workers = 0
    config.data.max_unreadable = 0  # Images, before the run stops.

    config.detector = ConfigDict()
    config.detector.loss_group_size = 0  # The whole batch.

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_learning_rate = 1e-5
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.base_batch_size = 16
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "cosine"
    config.optimizer.drop_epochs = ()  # Of the schedule step.
    config.optimizer.groups = (  # Path, factors on learning rate and weight decay.
        ("(bias|scale)$", 1.0, 0.0),
    )
    return config
