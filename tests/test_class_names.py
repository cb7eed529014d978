import pytest

from litv2_jax.class_names import (
    ade20k_names,
    display_names,
    imagenet_names,
    match_classes,
    short_name,
)
from litv2_jax.settings import ConfigError


def test_published_lists_have_their_classes_in_order():
    assert len(imagenet_names()) == 1000
    assert next(iter(imagenet_names())) == "n01440764"
    assert display_names("imagenet")[0] == "tench, Tinca tinca"
    assert len(display_names("ade20k")) == len(set(ade20k_names())) == 150
    assert len(set(display_names("coco"))) == 80
    assert display_names("coco")[::79] == ["person", "toothbrush"]
    assert display_names(["n01440764", "x"]) == ["tench, Tinca tinca", "x"]


def test_synonyms_are_left_out_of_imagenets_names_alone():
    assert short_name("tench, Tinca tinca") == "tench"
    assert short_name("dog, small") == "dog, small"


def test_classes_of_one_order_need_no_numbers():
    assert match_classes(["a", "b"], ["a", "b"], "x") is None
    assert match_classes("imagenet", list(imagenet_names()), "x") is None
    assert match_classes("ade20k", ade20k_names(), "x") is None
    # Unknown, as those of a converted file of another number of classes.
    assert match_classes([], ["a", "b"], "x") is None
    assert match_classes(["cafe\u0301"], ["caf\u00e9"], "x") is None


def test_the_same_classes_in_another_order_are_matched_by_name():
    assert match_classes(["a", "b", "c"], ["c", "a", "b"], "x") == [2, 0, 1]
    numbers = list(imagenet_names())
    order = match_classes("imagenet", numbers[::-1], "x")
    assert order == list(range(999, -1, -1))


def test_other_classes_are_refused_with_both_lists():
    with pytest.raises(ConfigError) as found:
        match_classes(["cat", "dog\x1b", "ox"], ["cat", "cow"], "runs/a")
    assert str(found.value) == (
        "runs/a has 3 classes (cat, dog\\x1b, ox), but the data have 2 (cat, cow); "
        "only in the checkpoint: dog\\x1b, ox; only in the data: cow. Use data "
        "with the classes of the checkpoint."
    )
    many = [f"class {k}" for k in range(1000)]
    with pytest.raises(ConfigError) as found:
        match_classes(many, [*many[:-1], "other"], "runs/a")
    message = str(found.value)
    assert "only in the checkpoint: class 999; only in the data: other" in message
    assert "class 5 and 994 more" in message
    assert len(message) < 500
