"""Prints how far this code is from the original: python -m tests.measure_parity

Runs the parity tests, slow ones too, compiled as users compile, and gathers the
differences that they look at.
"""

import os
import re
import sys

# Read by tests/conftest.py.
os.environ["COMPILE_TESTS_FAST"] = "0"

import pytest

# Parity tests have names such as `test_matches_pytorch`.
TESTS = ["tests/models", "tests/ops/test_deform_conv.py", "-k", "match"]

# Also of mmdetection 2.11, which has both models in one file.
_RETINA, _MASK = "(retina.*/|det2.*/retina/)", "(mask.*/|det2.*/mask/)"

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
    ("Semantic FPN, normalized maps", r"dense/semfpn.*/backbone.*", False),
    ("Semantic FPN, pyramid and branches", r"dense/semfpn.*/(neck|scale).*", False),
    ("Semantic FPN, logits at three sizes", r"dense/semfpn.*/logits.*", False),
    ("Semantic FPN, probabilities", r"dense/semfpn.*/prob.*", False),
    ("Semantic FPN, gradients", r"dense/semfpn.*/grad/.*", True),
    ("Semantic FPN, running statistics", r"dense/semfpn.*/after/.*", False),
    ("RetinaNet, maps and pyramid", r"dense/retina.*/(backbone|neck)\..*", False),
    ("RetinaNet, logits", r"dense/retina.*/cls_score.*", False),
    ("RetinaNet, deltas", r"dense/retina.*/bbox_pred.*", False),
    ("RetinaNet, deltas of targets", r"dense/retina.*/pos_bbox_targets", False),
    ("RetinaNet, losses by level", r"dense/retina.*/(cls|bbox)_per_level", True),
    ("RetinaNet, boxes in pixels", rf"dense/{_RETINA}dets.*/bboxes", False),
    ("RetinaNet, scores", rf"dense/{_RETINA}dets.*/scores", False),
    ("RetinaNet, labels in their order", rf"dense/{_RETINA}dets.*/labels", False),
    ("RetinaNet, gradients", r"dense/retina.*/grad/.*", True),
    ("Mask R-CNN, pyramid", r"dense/mask.*/neck.*", False),
    ("Mask R-CNN, outputs of the RPN", r"dense/mask.*/rpn_(cls|bbox).*", False),
    ("Mask R-CNN, logits and deltas", r"dense/mask.*/roi/(cls|bbox)_.*", False),
    ("Mask R-CNN, logits of masks", r"dense/mask.*/roi/mask_pred.*", False),
    ("Mask R-CNN, losses", r"dense/mask.*/loss_.*/loss_.*", True),
    ("Mask R-CNN, losses in training", r"dense/mask.*/train/loss_.*", True),
    ("Mask R-CNN, boxes in pixels", rf"dense/{_MASK}dets.*/bboxes", False),
    ("Mask R-CNN, scores", rf"dense/{_MASK}dets.*/scores", False),
    ("Mask R-CNN, labels in their order", rf"dense/{_MASK}dets.*/labels", False),
    ("Mask R-CNN, gradients", r"dense/mask.*/grad/.*", True),
]


def main() -> None:
    """Runs the tests in this process, then prints the table."""
    if status := pytest.main([*TESTS, "-q", "-n", "0"]):
        sys.exit(status)
    # Not before tests/conftest.py has set the number of devices.
    from tests.reference import Reference

    print("| what | arrays | largest difference |\n|---|---|---|")
    for title, pattern, is_relative in GROUPS:
        found = [
            difference / max(scale, 1e-6) if is_relative else difference
            for key, (difference, scale) in Reference.measured.items()
            if re.fullmatch(pattern, key)
        ]
        unit = " of the largest" if is_relative else ""
        largest = f"{max(found):.1e}" if max(found) else "0"
        print(f"| {title} | {len(found)} | {largest}{unit} |")


if __name__ == "__main__":
    main()
