"""Prints how far this code is from the original: python -m tests.measure_parity

Runs the parity tests and gathers the differences that they look at.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import re

import jax

from tests.models import (
    test_backbone,
    test_classifier,
    test_hilo,
    test_merging,
    test_semantic_fpn,
)
from tests.ops import test_deform_conv
from tests.reference import Reference

jax.config.update("jax_default_matmul_precision", "highest")

# What is compared, and whether by the size of the largest value.
GROUPS = [
    ("HiLo, output", r"hilo/(?!.*sharp).*/out", False),
    ("HiLo, output, sharp softmax", r"hilo/.*sharp.*/out", False),
    ("HiLo, gradients", r"hilo/.*/grad.*", True),
    ("Deformable convolution, output", r"dtm/deform/.*/out", False),
    ("Deformable convolution, gradients", r"dtm/deform/.*/grad_.*", True),
    ("Token merging, output", r"dtm/.*/(eval|train)/out", False),
    ("Token merging, gradients", r"dtm/.*/grad/(?!dconv.bias).*", True),
    ("Token merging, running statistics", r"dtm/.*/buffer/.*", False),
    ("Tiny models, activations", r"litv2_tiny/.*/act/.*", False),
    ("Tiny models, logits", r"litv2_tiny/.*/logits", False),
    ("Tiny models, gradients", r"litv2_tiny/.*/grad/(?!.*dconv.bias).*", True),
    ("S at 224, logits", r"litv2_models/s_224/logits", False),
    ("M at 224, logits", r"litv2_models/m_224/logits", False),
    ("B at 224, logits", r"litv2_models/b_224/logits", False),
    ("B at 384, logits", r"litv2_models/b_384/logits", False),
    ("S at six other alphas, logits", r"litv2_models/s_224_a.*/logits", False),
    ("S, M, B, stages", r"litv2_models/.*/act/.*", False),
    ("Dense backbones, feature maps", r"backbone/.*/feat.", False),
    ("Semantic FPN, normed maps", r"dense/semfpn.*/backbone.*", False),
    ("Semantic FPN, pyramid and branches", r"dense/semfpn.*/(neck|scale).*", False),
    ("Semantic FPN, logits at three sizes", r"dense/semfpn.*/logits.*", False),
    ("Semantic FPN, probabilities", r"dense/semfpn.*/prob.*", False),
    ("Semantic FPN, gradients", r"dense/semfpn.*/grad/.*", True),
    ("Semantic FPN, running statistics", r"dense/semfpn.*/after/.*", False),
]


def main() -> None:
    for name in test_hilo.CASES:
        test_hilo.test_matches_pytorch(name)
    for name in test_deform_conv.CASES:
        test_deform_conv.test_matches_pytorch(name)
    for mode in ("eval", "train"):
        for name in test_merging.CASES:
            test_merging.test_matches_pytorch(name, mode)
        for name in test_classifier.TINY.cases:
            test_classifier.test_tiny_model_matches_pytorch(name, mode)
    for name in test_classifier.LARGE.cases:
        test_classifier.test_published_models_match_pytorch(name)
    for name in test_backbone.GOLDEN.cases:
        test_backbone.test_features_match_the_dense_backbones(name)
    for case in test_semantic_fpn.CASES:
        name, shape = getattr(case, "values", case)
        test_semantic_fpn.test_matches_pytorch(name, shape)
        test_semantic_fpn.test_predictions_match_pytorch_at_the_size_of_the_picture(
            name, shape
        )
    test_semantic_fpn.test_training_matches_pytorch()

    print("| what | arrays | largest difference |\n|---|---|---|")
    for title, pattern, is_relative in GROUPS:
        found = [
            difference / max(scale, 1e-6) if is_relative else difference
            for key, (difference, scale) in Reference.measured.items()
            if re.fullmatch(pattern, key)
        ]
        unit = " of the largest" if is_relative else ""
        print(f"| {title} | {len(found)} | {max(found):.1e}{unit} |")


if __name__ == "__main__":
    main()
