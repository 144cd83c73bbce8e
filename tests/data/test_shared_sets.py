"""The real sets beside the project, where they are."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everlearn.data import class_incremental, load, open_source

SHARED = Path(__file__).parents[2] / "../shared/data"


def unpack(name, dest, per_class):
    """The first pictures of each class of a packed set, as a class folder."""
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not in ../shared/data")
    packed = np.load(SHARED / name, allow_pickle=False)
    data, offsets, labels = packed["data"].tobytes(), packed["offsets"], packed["label"]
    for code, class_name in enumerate(packed["class_names"]):
        folder = dest / "all" / str(class_name).replace("/", "_")
        folder.mkdir(parents=True)
        for i in np.flatnonzero(labels == code)[:per_class]:
            (folder / f"{i:05d}.jpg").write_bytes(data[offsets[i] : offsets[i + 1]])
    return dest


@pytest.mark.parametrize(
    "name, shape, classes",
    [
        ("cifar10_jpeg95.npz", (3, 32, 32), 10),
        ("cxr_covid_pneumonia_normal.npz", (1, 256, 256), 3),
        ("imagenette224_1000.npz", (3, 224, 224), 10),
    ],
)
def test_packed_sets_open_as_they_are(tmp_path, name, shape, classes):
    source = open_source(unpack(name, tmp_path / "set", per_class=10))
    assert source.shape == shape and len(source.class_names) == classes
    assert source.test.sum() == 2 * classes
    inputs, _, kept = load(source, np.arange(len(source)))
    assert len(kept) == 10 * classes
    with Image.open(io.BytesIO((tmp_path / "set" / source.names[0]).read_bytes())) as image:
        assert np.array_equal(
            inputs[0].permute(1, 2, 0).squeeze().numpy(), np.asarray(image.convert("RGB" if shape[0] == 3 else "L"))
        )


def test_pneumoniamnist():
    file = SHARED / "pneumoniamnist.npz"
    if not file.is_file():
        pytest.skip("pneumoniamnist.npz is not in ../shared/data")
    source = open_source(file)
    assert source.shape == (1, 28, 28) and len(source) == 4708 + 624 and source.test.sum() == 624
    assert sum(len(batch) for batch in class_incremental(source, tasks=2).batches(100)) == 4708
