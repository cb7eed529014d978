"""A task that compiles at once: which of two numbers is larger."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image

from configs import demo
from litv2_jax.data import pipeline
from litv2_jax.metrics.accuracy import Accuracy
from litv2_jax.models.batch_norm import BatchNorm
from litv2_jax.training.run_settings import RunSettings


class ToyModel(nnx.Module):
    def __init__(self, hidden: int, *, rngs: nnx.Rngs):
        self.expand = nnx.Linear(2, hidden, rngs=rngs)
        self.norm = BatchNorm(hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.expand(x)[:, None, None])
        return self.head(jax.nn.relu(x)[:, 0, 0])


class Pairs:
    """A source of pairs of numbers, by index."""

    def __init__(self, size: int):
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).standard_normal(2).astype(np.float32)


class Label(grain.transforms.Map):
    def map(self, element):
        return {"x": element, "label": np.int32(element.argmax())}


class ShiftAndLabel(grain.transforms.RandomMap):
    def random_map(self, element, rng):
        return Label().map(element + np.float32(rng.normal()))


class Toy:
    """See `training.task.Task`."""

    best = "top1"

    def __init__(
        self,
        *,
        batch_size=16,
        hidden=8,
        train_size=70,
        eval_size=40,
        num_workers=0,
        processes=(0, 1),
        train_transform=None,
    ):
        self.description = {"model": {"name": "toy", "hidden": hidden}}
        self.num_train_examples = train_size
        self.steps_per_epoch = train_size // batch_size
        self.num_eval_programs = 1
        self.num_eval_batches = -(-eval_size // batch_size)
        self._hidden = hidden
        self._sizes = train_size, eval_size
        self._share = {
            "batch_size": batch_size,
            "num_workers": num_workers,
            "process_index": processes[0],
            "process_count": processes[1],
        }
        self._train_transform = train_transform or ShiftAndLabel()

    def facts(self):
        return {"data": "pairs"}

    def build(self, rngs):
        return ToyModel(self._hidden, rngs=rngs)

    def train_view(self):
        return {"use_running_average": False}

    def train_batches(self, start_step):
        return pipeline.train_batches(
            Pairs(self._sizes[0]),
            self._train_transform,
            seed=0,
            start_step=start_step,
            **self._share,
        )

    def eval_batches(self):
        return pipeline.eval_batches(Pairs(self._sizes[1]), Label(), **self._share)

    def example_batch(self):
        return {"x": np.zeros((16, 2), np.float32), "label": np.zeros(16, np.int32)}

    def augment(self, batch, key):
        noise = 0.1 * jax.random.normal(key, batch["x"].shape)
        return {**batch, "x": batch["x"] + noise}

    def loss(self, model, batch, rngs):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            model(batch["x"]), batch["label"]
        )
        return losses.mean(), {"draw": jax.random.uniform(rngs.dropout())}

    def evaluate(self, model, batch):
        logits = model(batch["x"])
        hits = logits.argmax(-1) == batch["label"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        outputs = {"top1": hits, "top5": jnp.ones_like(hits), "loss": losses}
        return {**outputs, "valid": batch["valid"]}

    def predict(self, model, batch):
        return {"choice": model(batch["x"]).argmax(-1)}

    def check_unreadable(self, count):
        assert count == 0

    def metric(self):
        return Accuracy()

    def write_scores(self, metric, folder):
        (folder / "scores.txt").write_text(f"{metric.result()}")

    def draw_inputs(self, batch, path):
        draw_points(batch["x"], batch["label"], path)

    def pictures(self, batch, outputs):
        choice = outputs["choice"]
        return {"predictions": lambda path: draw_points(batch["x"], choice, path)}


def draw_points(points, colors, path):
    """A black or white dot for each pair, within four of zero."""
    pixels = np.full((80, 80, 3), 128, np.uint8)
    x, y = np.clip(10 * np.asarray(points).T + 40, 0, 79).astype(int)
    pixels[y, x] = 255 * np.asarray(colors, np.uint8)[:, None]
    Image.fromarray(pixels).save(path)


def draw_no_curves(rows, path):
    Image.new("RGB", (1, 1)).save(path)


def toy_run(**changes) -> RunSettings:
    """Three epochs of four updates."""
    config = demo.get_config()
    config.epochs, config.eval_every_epochs = 3.0, 1.0
    config.batch_size, config.log_every_steps = 16, 1
    config.optimizer.base_batch_size = 16
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.groups = (("(bias|scale)$", 1.0, 0.0),)
    config.update_from_flattened_dict(changes)
    return RunSettings.split(config.to_dict())[0]
