"""From weights to maps of classes of your own, in one command.

    python train.py --config configs/finetune_segmentation.py:litv2_s \\
        --workdir runs/rooms --config.data.data_dir=rooms --config.weights=litv2_s.pth

`litv2_s`, `litv2_m` and `litv2_b` are the backbones of a Semantic FPN, whose layers
near the images learn at lower rates. Of the weights of a classifier, the backbone is
taken; of those of a Semantic FPN, everything but the last layer, if the classes differ.

The folder has `images/train` and `annotations/train`, the same for `val`, and
`classes.txt`: docs/segmentation.md says what is in them. No score has been measured
with published weights.
"""

from ml_collections import ConfigDict

from litv2_jax.layer_groups import layer_groups

DEPTHS = {"litv2_s": (2, 2, 6, 2), "litv2_m": (2, 2, 18, 2), "litv2_b": (2, 2, 18, 2)}
DROP_PATH = {"litv2_s": 0.1, "litv2_m": 0.2, "litv2_b": 0.3}


def get_config(name: str = "litv2_s") -> ConfigDict:
    if name not in DEPTHS:
        raise ValueError(f"No recipe for {name!r}; there are {', '.join(DEPTHS)}.")
    config = ConfigDict()
    config.task = "segmentation"
    config.seed = 0
    config.epochs = 30.0
    config.batch_size = 8  # Over all devices; a set with fewer images needs less.
    config.accumulation_steps = 1  # Parts of a batch, one after the other.
    config.batch_norm_group_size = 0  # The whole batch.
    config.freeze_batch_norm = False  # The head's is new and has to learn.
    config.remat = "none"  # Or blocks: slower, in less memory.
    config.eval_every_epochs = 3.0
    config.checkpoint_every_steps = 0  # At evaluations alone.
    config.log_every_steps = 10
    config.trackers = ("tensorboard",)  # Also "wandb"; () for none.
    config.max_skipped_steps = 10  # In a row, not being finite.
    config.weights = ""  # To be given: a .pth file, a run, a folder.
    config.weights_head = "new"  # Where classes differ; keep takes the old one.
    config.ema_decay = 0.998  # Of averaged weights; 0 keeps none.

    config.model = ConfigDict()
    config.model.name = f"semantic_fpn_{name}"
    config.model.drop_path_rate = DROP_PATH[name]
    config.model.dtype = "bfloat16"  # Of activations; parameters stay float32.
    config.model.sizes = ConfigDict()

    config.data = ConfigDict()
    config.data.name = "folder"
    config.data.data_dir = "data"  # The folder.
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.scale = (2048, 512)  # Longest and shortest side, in pixels.
    config.data.ratio = (0.5, 2.0)  # Factors on it, in training.
    config.data.crop_size = 512  # Pixels.
    config.data.max_class_share = 0.75  # Of a crop.
    config.data.flip = 0.5
    config.data.distortion = 1.0
    config.data.zero_label = "class"  # Or ignored, where the first class is 1.
    config.data.eval_multiple = 32  # Pixels, of the canvases; no score depends on it.
    config.data.num_workers = 4
    config.data.max_unreadable = 0  # Images, before the run stops.

    config.eval = ConfigDict()
    config.eval.tta = "none"  # Or flip or multiscale: see docs/segmentation.md.

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 2e-4  # Of pyramid and head, at 8 images.
    config.optimizer.warmup_learning_rate = 1e-6
    config.optimizer.end_learning_rate = 1e-6
    config.optimizer.base_batch_size = 8
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.optimizer.schedule = "polynomial"
    config.optimizer.groups = layer_groups(DEPTHS[name], 0.85)
    return config
