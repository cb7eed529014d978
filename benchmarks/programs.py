"""The programs that are measured: forward pass and training step of a recipe."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from configs import imagenet
from litv2_jax import (
    compiler_options,
    create_model,
    fuse_for_inference,
    list_models,
)
from litv2_jax.ops.resize import resize_bilinear
from litv2_jax.training.devices import Devices
from litv2_jax.training.run import Run
from litv2_jax.training.run_settings import RunSettings
from litv2_jax.training.task import Batch

NUM_CLASSES = 1000  # ImageNet's.
NUM_PIXEL_CLASSES = 150  # ADE20K's.
SEGMENTATION = list_models("segmentation")
DETECTION = list_models("detection")
# Height and width of a canvas for an image of COCO.
DETECTION_SIZE = (800, 1344)
WORK = ("forward", "train")


@dataclasses.dataclass(frozen=True)
class Case:
    """One piece of work.

    Attributes:
        variant: Name of the model.
        work: `forward`, the logits of a batch by the model as `fuse_for_inference`
            leaves it, and with Semantic FPN the class of each pixel; or `train`, one
            training step of the ImageNet recipe, from the normalized images and mixed
            labels on.
        batch_size: Number of images.
        image_size: Side of the images in pixels; those of detectors have
            `DETECTION_SIZE`.
        dtype: Type of the computation.
        sizes: Of the model, where they are not the published ones.
    """

    variant: str
    work: str
    batch_size: int
    image_size: int
    dtype: str
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """Name of the recipe; the model for 384 pixels is that for 224."""
        return self.variant.removesuffix("_384")

    @property
    def part(self) -> str:
        """What it is, whatever the model: the part of its rows."""
        return f"{self.work}, batch {self.batch_size}, {self.dtype}"

    def describe_to_torch(self, configuration: str) -> dict[str, Any]:
        """Returns the job that is the same for `TorchPeer`."""
        return {
            "variant": self.recipe,
            "work": self.work,
            "batch_size": self.batch_size,
            "image_size": self.image_size,
            "dtype": self.dtype,
            "configuration": configuration,
            "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
        }


class Prepared:
    """What a `Run` needs of the ImageNet task, without its data.

    Images are augmented. It stands beside `tasks.Classification` because that one
    needs Grain and TFDS, which the machine of a GPU may lack.
    """

    num_train_examples = 1_281_167

    def __init__(self, model: Any, batch_size: int):
        """Takes the section `model` of the recipe, a ConfigDict."""
        self._model = model
        self.steps_per_epoch = self.num_train_examples // batch_size

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model."""
        return create_model(
            self._model.name,
            rngs=rngs,
            num_classes=NUM_CLASSES,
            drop_path_rate=self._model.drop_path_rate,
            dtype=jnp.dtype(self._model.dtype),
            **self._model.sizes,
        )

    def train_view(self) -> dict[str, Any]:
        """Returns the attributes that `nnx.view` sets in the model for training."""
        return {"deterministic": False, "use_running_average": False}

    def augment(self, batch: Batch, key: jax.Array) -> Batch:
        """Returns the batch as it is."""
        del key
        return batch

    def loss(
        self, model: Any, batch: Batch, rngs: nnx.Rngs
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the cross-entropy with the targets."""
        logits = model(batch["image"], rngs=rngs)
        return optax.softmax_cross_entropy(logits, batch["target"]).mean(), {}


def create_run(case: Case, devices: Devices | None = None) -> Run:
    """Returns what the training loop makes of a case, whose batches are augmented."""
    config: Any = imagenet.get_config(case.recipe)
    config.batch_size = case.batch_size
    config.model.dtype = case.dtype
    config.model.sizes = case.sizes
    settings, _ = RunSettings.split(config.to_dict())
    task: Any = Prepared(config.model, case.batch_size)
    return Run(task, settings, devices)


def create_forward(case: Case) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted function `forward(state, images)`, and its arguments."""
    is_dense = case.variant in SEGMENTATION
    model = create_model(
        case.variant,
        rngs=nnx.Rngs(0),
        num_classes=NUM_PIXEL_CLASSES if is_dense else NUM_CLASSES,
        dtype=jnp.dtype(case.dtype),
        **case.sizes,
    )
    graphdef, state = nnx.split(fuse_for_inference(model))

    def forward(state: Any, images: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, state)(images)
        if is_dense:
            size = (case.image_size, case.image_size)
            return resize_bilinear(logits, size).argmax(-1)
        return logits

    run = jax.jit(forward, compiler_options=compiler_options(case.dtype))
    return run, (nnx.as_pure(state), draw_images(case))


def create_step(case: Case) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted training step `step(state, batch, key)`, and its arguments."""
    run = create_run(case)
    arguments = run.create_state(), draw_batch(case), jax.random.key(0)
    return run.create_step(None), arguments


def rand_augment_options() -> dict[str, Any]:
    """Returns what ImageNet's recipe gives RandAugment, on the device and the host."""
    augment: Any = imagenet.get_config().augment
    return {
        "magnitude": augment.randaugment_magnitude,
        "magnitude_std": augment.randaugment_std,
        "num_layers": augment.randaugment_layers,
    }


def draw_batch(case: Case) -> dict[str, jax.Array]:
    """Returns the images of a training step, and their mixed labels."""
    target = np.full((case.batch_size, NUM_CLASSES), 1 / NUM_CLASSES, np.float32)
    return {"image": draw_images(case), "target": jnp.asarray(target)}


def draw_images(case: Case) -> jax.Array:
    """Returns normalized images [B, H, W, 3]."""
    sides = (case.image_size, case.image_size)
    if case.variant in DETECTION:
        sides = DETECTION_SIZE
    shape = (case.batch_size, *sides, 3)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    return jnp.asarray(images)
