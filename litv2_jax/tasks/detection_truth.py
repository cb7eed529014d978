"""The objects of an evaluation split in COCO's format, as the metric needs them."""

from typing import Any

from litv2_jax.data.detection_records import unpack_crop
from litv2_jax.data.scan import scan_records
from litv2_jax.data.sources.detection import DetectionSource
from litv2_jax.metrics.rle import encode_mask


def collect_truth(source: DetectionSource, *, has_masks: bool) -> dict[str, Any]:
    """Returns COCO's `images`, `annotations` and `categories` of a split.

    Objects of a record that cannot be read are left out, as its image will be.

    Args:
        source: The split.
        has_masks: Whether masks are needed.
    """
    images = [
        {"id": int(number), "height": height, "width": width}
        for number, (height, width) in zip(
            source.index.image_ids, source.index.sizes.tolist(), strict=True
        )
    ]

    objects = scan_records(
        lambda number: _describe(source, number, has_masks),
        len(source),
        "read objects",
    )
    annotations = [entry for found in objects for entry in found or []]
    return {
        "images": images,
        # 0 means no annotation to pycocotools.
        "annotations": [{"id": i, **x} for i, x in enumerate(annotations, 1)],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(
                source.category_ids, source.class_names, strict=True
            )
        ],
    }


def _describe(
    source: DetectionSource, number: int, has_masks: bool
) -> list[dict[str, Any]]:
    record = source[number]
    height, width = record["size"].tolist()
    found = []
    for i, box in enumerate(record["boxes"].tolist()):
        entry = {
            "image_id": int(source.index.image_ids[number]),
            "category_id": source.category_ids[record["labels"][i]],
            "bbox": box,
            "area": float(record["areas"][i]),
            "iscrowd": int(record["is_crowd"][i]),
        }
        if has_masks:
            crop = unpack_crop(record, i)
            entry["segmentation"] = encode_mask(*crop, (height, width))
        found.append(entry)
    return found
