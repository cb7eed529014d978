"""From weights to boxes of classes of your own: annotations in COCO's format.

    python -m litv2_jax.prepare coco --name objects --data-dir data --split train \\
        --annotations train.json --images train
    python -m litv2_jax.prepare coco --name objects --data-dir data --split val \\
        --annotations val.json --images val
    python train.py --config configs/finetune_detection.py:retinanet_litv2_s \\
        --workdir runs/objects --config.weights=litv2_s.pth

The argument is one of the models in docs/detection.md: `retinanet_litv2_s` and so on
find boxes, `mask_rcnn_litv2_s` and so on masks as well. Layers near the images learn at
lower rates. Of the weights of a classifier, the backbone is taken; of those of the same
detector, everything but the layers whose outputs are classes, if the classes differ. No
score has been measured with published weights.
"""

from ml_collections import ConfigDict

from litv2_jax.layer_groups import layer_groups

DEPTHS = {"litv2_s": (2, 2, 6, 2), "litv2_m": (2, 2, 18, 2), "litv2_b": (2, 2, 18, 2)}
DROP_PATH = {"litv2_s": 0.1, "litv2_m": 0.2, "litv2_b": 0.3}
DETECTORS = ("retinanet", "mask_rcnn")


def get_config(name: str = "retinanet_litv2_s") -> ConfigDict:
    detector, _, size = name.removesuffix("_window4").rpartition("_litv2_")
    backbone = f"litv2_{size}"
    if detector not in DETECTORS or backbone not in DEPTHS:
        known = ", ".join(f"{x}_{y}" for x in DETECTORS for y in DEPTHS)
        raise ValueError(
            f"No recipe for {name!r}; there are {known}, each with _window4, too."
        )
    config = ConfigDict()
    config.task = "detection"
    config.seed = 0
    config.epochs = 12.0
    config.batch_size = 8  # Over all devices; a set with fewer images needs less.
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = True  # Batches are small, and the heads have none.
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
    config.model.drop_path_rate = DROP_PATH[backbone]
    config.model.dtype = "bfloat16"  # Of activations; parameters stay float32.
    config.model.sizes = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "objects"  # As prepare was given it.
    config.data.data_dir = "data"
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.scale = (1333, 800)  # Longest and shortest side, in pixels.
    config.data.canvases = (
        (800, 1344),
        (1344, 800),
    )  # Height, width; a batch is on one.
    config.data.flip = 0.5
    config.data.max_objects = 100  # Of an image, in training.
    config.data.empty_images = "skipped"  # Without annotations, in training.
    config.data.eval_multiple = 32  # Pixels, of the canvases; no score depends on it.
    config.data.num_workers = 4
    config.data.max_unreadable = 0  # Images, before the run stops.

    config.detector = ConfigDict()
    config.detector.loss_group_size = 0  # The whole batch.
    if detector == "mask_rcnn":
        config.detector.num_proposals = 1000  # Boxes that are looked into.
        config.detector.num_samples = 512  # Of these, in training.

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 1e-4  # Of pyramid and heads, at 8 images.
    config.optimizer.warmup_learning_rate = 1e-7
    config.optimizer.end_learning_rate = 1e-6
    config.optimizer.base_batch_size = 8
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "cosine"
    config.optimizer.drop_epochs = ()  # Of the schedule step.
    config.optimizer.groups = layer_groups(DEPTHS[backbone], 0.85)
    return config
