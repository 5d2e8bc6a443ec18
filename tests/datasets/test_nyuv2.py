import numpy as np
import pytest
import torch

from mtlkit.datasets import load
from mtlkit.tasks import labelled_by_task, pack, per_sample_losses

HEIGHT, WIDTH = 4, 5


@pytest.fixture
def root(tmp_path):
    """Six training and three validation images in LibMTL's layout."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("val", 3)):
        for kind in ("image", "label", "depth", "normal"):
            (tmp_path / part / kind).mkdir(parents=True)
        for number in range(n):
            normal = rng.normal(size=(HEIGHT, WIDTH, 3))
            normal /= np.linalg.norm(normal, axis=2, keepdims=True)
            depth, label = rng.uniform(1, 9, (HEIGHT, WIDTH, 1)), rng.integers(-1, 13, (HEIGHT, WIDTH)).astype(float)
            normal[0, 0], depth[1, 2], label[3, 4] = 0, 0, -1
            image = np.full((HEIGHT, WIDTH, 3), number + (100 if part == "val" else 0)) + np.arange(3) / 10
            for kind, values in (("image", image), ("label", label), ("depth", depth), ("normal", normal)):
                np.save(tmp_path / part / kind / f"{number}.npy", values.astype(np.float32))
    return tmp_path


def test_made_of_its_files(root):
    data = load("nyuv2", root=root, n_meta=2, seed=1)
    assert [len(s) for s in data.splits.values()] == [4, 2, 3]
    assert torch.cat([data.train.rows, data.meta.rows]).sort().values.tolist() == list(range(6))
    assert data.test.rows.tolist() == [6, 7, 8]
    for where, split in data.splits.items():
        folder = root / ("val" if where == "test" else "train")
        for n, row in enumerate(split.rows.tolist()):
            number = row - 6 if where == "test" else row
            parts = {k: np.load(folder / k / f"{number}.npy") for k in ("image", "label", "depth", "normal")}
            np.testing.assert_array_equal(split.x[n], parts["image"].transpose(2, 0, 1))
            np.testing.assert_array_equal(split.y["segmentation"][n], parts["label"])
            depth = np.where(parts["depth"] == 0, np.nan, parts["depth"]).transpose(2, 0, 1)
            np.testing.assert_array_equal(split.y["depth"][n], depth)
            normal = parts["normal"].transpose(2, 0, 1).copy()
            normal[:, 0, 0] = np.nan
            np.testing.assert_array_equal(split.y["normals"][n], normal)
    assert data.test.y["depth"].shape == (3, 1, HEIGHT, WIDTH)


def test_losses_are_per_image_means_over_known_pixels(root):
    data = load("nyuv2", root=root, n_meta=2)
    generator = torch.Generator().manual_seed(0)
    outputs = {
        name: torch.randn(3, channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
        for name, channels in (("segmentation", 13), ("depth", 1), ("normals", 3))
    }
    targets = pack(data.tasks, data.test.y)
    losses = per_sample_losses(data.tasks, outputs, targets)
    assert losses.shape == (3, 3)
    assert labelled_by_task(data.tasks, targets).all()
    for n in range(3):
        scores = outputs["segmentation"][n].log_softmax(0)
        label = data.test.y["segmentation"][n].long()
        terms = [-scores[label[i, j], i, j] for i in range(HEIGHT) for j in range(WIDTH) if label[i, j] >= 0]
        assert losses[n, 0].item() == pytest.approx(float(sum(terms) / len(terms)))
        for column, name in ((1, "depth"), (2, "normals")):
            error = (outputs[name][n] - data.test.y[name][n].double()).square()
            assert losses[n, column].item() == pytest.approx(float(error[~torch.isnan(error)].mean()))


def test_found_in_the_data_folder(root, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "nyuv2").symlink_to(root, target_is_directory=True)
    monkeypatch.setenv("MTLKIT_DATA", str(folder))
    assert [t.name for t in load("nyuv2", main="depth", n_meta=2).tasks] == ["depth", "segmentation", "normals"]


def test_what_can_be_wrong(root, tmp_path):
    with pytest.raises(ValueError, match="main is 'edges', expected one of segmentation, depth, normals"):
        load("nyuv2", root=root, main="edges")
    for n_meta in (0, 6):
        with pytest.raises(ValueError, match=f"n_meta is {n_meta}, expected at least 1 each and at most 5"):
            load("nyuv2", root=root, n_meta=n_meta)
    with pytest.raises(FileNotFoundError, match=r"no NYUv2 at .*nowhere, expected train/image/0.npy"):
        load("nyuv2", root=tmp_path / "nowhere")
    label = root / "val" / "label" / "1.npy"
    kept = np.load(label)
    np.save(label, np.full_like(kept, 13))
    with pytest.raises(ValueError, match="nyuv2, test split: task 'segmentation': target holds 13"):
        load("nyuv2", root=root, n_meta=2)
    np.save(label, kept[:2])
    with pytest.raises(ValueError, match=r"1.npy has shape \(2, 5\), expected \(4, 5\)"):
        load("nyuv2", root=root, n_meta=2)
    np.save(label, np.array([None]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load("nyuv2", root=root, n_meta=2)
    label.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*label.1\.npy, expected one for every image"):
        load("nyuv2", root=root, n_meta=2)
