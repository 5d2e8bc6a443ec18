"""A Weigher in Lightning and Accelerate: made in ``__init__``, saved and restored with all that it remembers."""

import pytest
import torch
from torch import nn

import mtlkit as mtl

TASKS = mtl.Task("price", "regression"), mtl.Task("sold", "binary")
METHODS = [mtl.SLAW(), mtl.DWA(), mtl.Uncertainty(), mtl.OLAux(every=2), mtl.GradNorm(), mtl.RandomWeighting()]
for_methods = pytest.mark.parametrize("weighting", METHODS, ids=lambda w: type(w).__name__)
EPOCH = 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.price, self.sold = nn.Linear(5, 4), nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        features = self.trunk(x).tanh()
        return {"price": self.price(features), "sold": self.sold(features)}


def start(weighting, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    return model, mtl.Weigher(model, TASKS, weighting, shared=model.trunk, lr=0.1, seed=seed)


class Batches(torch.utils.data.Dataset):
    """One epoch of batches of 8."""

    def __len__(self):
        return EPOCH

    def __getitem__(self, i):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(i))
        return x, {"price": x[:, 0], "sold": (x[:, 1] > 0).long()}


def plain(weighting, epochs):
    """What every framework must arrive at: the same loop without one."""
    model, weigh = start(weighting)
    descent = torch.optim.Adam([*model.parameters(), *weigh.parameters()], lr=0.05)
    for epoch in range(epochs):
        for i in range(EPOCH):
            descent.zero_grad()
            weigh(*Batches()[i], epoch=epoch).backward()
            descent.step()
    return model.state_dict(), weigh.state_dict()


def assert_same(model, weigh, expected):
    for found, wanted in zip((model.state_dict(), weigh.state_dict()), expected, strict=True):
        torch.testing.assert_close(dict(found), dict(wanted), rtol=1e-6, atol=1e-7, equal_nan=True)


@for_methods
@pytest.mark.filterwarnings("ignore")
def test_a_lightning_checkpoint(weighting, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self, seed):
            super().__init__()
            self.model, self.weigh = start(weighting, seed)

        def training_step(self, batch, batch_idx):
            return self.weigh(*batch, epoch=self.current_epoch)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.05)

    def fit(module, epochs, checkpoint=None):
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(Batches(), batch_size=None), ckpt_path=checkpoint)
        return trainer

    fit(Module(0), 2).save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"model", "weigh"}
    resumed = Module(7)
    fit(resumed, 4, tmp_path / "two.ckpt")
    assert_same(resumed.model, resumed.weigh, plain(weighting, 4))


@for_methods
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_an_accelerate_state(weighting, prepared, tmp_path):
    accelerate = pytest.importorskip("accelerate")

    class Both(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.model, self.weigh = start(weighting, seed)

        def forward(self, *batch, **options):
            return self.weigh(*batch, **options)

    def begin(seed):
        accelerator = accelerate.Accelerator(cpu=True)
        both = Both(seed)
        descent = torch.optim.Adam(both.parameters(), lr=0.05)
        if prepared:  # model and Weigher as one module
            call, descent = accelerator.prepare(both, descent)
        else:  # the model alone, the Weigher beside it
            _, descent = accelerator.prepare(both.model, descent)
            call = both.weigh
            accelerator.register_for_checkpointing(call)
        return accelerator, both, call, descent

    def train(accelerator, call, descent, epochs):
        for epoch in epochs:
            for i in range(EPOCH):
                descent.zero_grad()
                accelerator.backward(call(*Batches()[i], epoch=epoch))
                descent.step()

    accelerator, _, call, descent = begin(0)
    train(accelerator, call, descent, range(2))
    accelerator.save_state(tmp_path)
    accelerator, both, call, descent = begin(7)
    accelerator.load_state(tmp_path)
    train(accelerator, call, descent, range(2, 4))
    assert_same(both.model, both.weigh, plain(weighting, 4))
