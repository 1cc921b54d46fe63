"""Data sets as torchvision has them."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_images import COARSE, LABELS, PIXELS, in_order

from samlib import load_dataset
from samlib.data.files import PUBLISHED


@pytest.mark.parametrize(("name", "label"), [("cifar10", None), ("cifar100", "coarse"), ("fashion_mnist", None)])
def test_torchvisions_sets(tmp_path, monkeypatch, name, label):
    """torchvision's own class is stood in for: what is tested is what we make of its arrays."""
    import torchvision

    class Source:
        tgz_md5 = "0" * 32

        def __init__(self, root, train, download):
            side = "train" if train else "test"
            self.data = PIXELS[side] if name != "fashion_mnist" else PIXELS[side][..., 0]
            self.targets, self.classes = LABELS[side].tolist(), list("abcd")

    monkeypatch.delenv("SAMLIB_DATA", raising=False)
    monkeypatch.setattr(torchvision.datasets, PUBLISHED[name]["torchvision"], Source)
    monkeypatch.delitem(PUBLISHED[name], "arrays", raising=False)
    found, expected = load_dataset(name), in_order()
    assert found.x_train.shape == (24, 6, 5, 1 if name == "fashion_mnist" else 3)
    if name != "fashion_mnist":
        assert np.array_equal(found.x_train, expected[0])
        assert np.array_equal(found.x_test, expected[2])
    assert np.array_equal(found.y_train, expected[1])
    assert found.source == f"torchvision {PUBLISHED[name]['torchvision']} md5 {'0' * 32}"
    if label:
        coarse = load_dataset("cifar100-coarse")
        assert np.array_equal(coarse.y_train, np.array(COARSE["superclass"])[found.y_train])
        assert len(coarse.classes) == 20
    with pytest.raises(ValueError, match="image_size and label are for folders"):
        load_dataset(name, image_size=8)


def test_a_failed_download_by_torchvision_is_one_sentence(tmp_path, monkeypatch):
    import torchvision

    def source(root, train, download):
        raise RuntimeError("File not found or corrupted.\nmore")

    fake = SimpleNamespace(CIFAR10=source)
    source.tgz_md5 = "0"
    monkeypatch.setattr(torchvision, "datasets", fake)
    monkeypatch.delenv("SAMLIB_DATA", raising=False)
    with pytest.raises(ValueError, match=r"cifar10 could not be downloaded \(File not found or corrupted\); put train"):
        load_dataset("cifar10")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


@pytest.mark.parametrize("cls", [about["torchvision"] for about in PUBLISHED.values() if "torchvision" in about])
def test_torchvision_publishes_the_checksums_that_name_the_cache(cls):
    import torchvision

    source = getattr(torchvision.datasets, cls)
    assert getattr(source, "tgz_md5", None) or all(len(md5) == 32 for _, md5 in source.resources)
