"""Encoders of token ids: against plain loops, and under everything that weightings do to a model."""

import copy
import math
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split
from mtlkit.datasets.text import Text
from mtlkit.gradients import aligned_losses
from mtlkit.models import hugging_face, initialise, mlp, text_encoder
from mtlkit.models import text as code
from mtlkit.recipes import make
from mtlkit.tasks import Task, pack, per_sample_losses

ENTRIES, LENGTH, PADDING, SEPARATOR = 30, 12, 0, 2
TASKS = (Task("a", "binary"), Task("b", "multiclass", 3), Task("c", "binary"))


def token_rows(n, seed):
    """Pairs of random texts as ids: start, first, separator, second, separator, padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((n, LENGTH), float(PADDING))
    for row in x:
        first, second = (int(torch.randint(1, 5, (), generator=generator)) for _ in range(2))
        words = torch.randint(3, ENTRIES, (first + second,), generator=generator)
        ids = torch.cat([torch.tensor([1]), words[:first], torch.tensor([2]), words[first:], torch.tensor([2])])
        row[: len(ids)] = ids.float()
    return x


def rows(n, seed, only_main=False):
    """Each row has the label of one task."""
    generator = torch.Generator().manual_seed(seed + 100)
    owner = torch.zeros(n, dtype=torch.long) if only_main else torch.arange(n) % len(TASKS)
    y = {}
    for t, task in enumerate(TASKS):
        labels = torch.randint(task.n_classes or 2, (n,), generator=generator)
        labels = labels if task.kind == "multiclass" else labels.float()
        y[task.name] = torch.where(owner == t, labels, -1 if task.kind == "multiclass" else torch.nan)
    return Split(token_rows(n, seed), y, 1000 * seed + torch.arange(n), torch.zeros(n, len(TASKS), dtype=torch.bool))


@pytest.fixture
def data():
    text = Text(ENTRIES, PADDING, SEPARATOR, dict.fromkeys("abc", 0.0))
    return Dataset("pairs", TASKS, rows(24, 1), rows(8, 2, only_main=True), rows(12, 3), text=text)


def drawn(model, seed=0, dtype=torch.float64):
    fresh = copy.deepcopy(model)
    initialise(fresh, torch.Generator().manual_seed(seed))
    return fresh.to(dtype)


def by_hand(trunk, row):
    """One row's vector without padding, heads and tokens in loops."""
    ids = [int(i) for i in row if int(i) != PADDING]
    first_end = ids.index(SEPARATOR)
    vectors = torch.stack(
        [
            trunk.token.weight[i] + trunk.place.weight[place] + trunk.part.weight[int(place > first_end)]
            for place, i in enumerate(ids)
        ]
    )
    for layer in trunk.layers:
        normed = F.layer_norm(vectors, vectors.shape[1:], layer.before.weight, layer.before.bias)
        size = vectors.shape[1] // layer.heads
        attended = torch.zeros_like(vectors)
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            q, k, v = (module(normed)[:, part] for module in (layer.query, layer.key, layer.value))
            for i in range(len(ids)):
                logits = torch.stack([(q[i] * k[j]).sum() / math.sqrt(size) for j in range(len(ids))])
                shares = logits.exp() / logits.exp().sum()
                attended[i, part] = sum(share * v[j] for j, share in enumerate(shares))
        vectors = vectors + layer.out(attended)
        vectors = vectors + layer.perceptron(vectors)
    vectors = F.layer_norm(vectors, vectors.shape[1:], trunk.norm.weight, trunk.norm.bias)
    return trunk.dense(vectors.mean(0)).relu()


@torch.no_grad()
@pytest.mark.parametrize(("layers", "heads"), [(0, 1), (1, 1), (2, 2), (1, 4)])
def test_text_encoder_is_what_it_says(data, layers, heads):
    model = drawn(text_encoder(data, width=8, layers=layers, heads=heads))
    found = model(data.train.x.double())
    for i, row in enumerate(data.train.x):
        features = by_hand(model.trunk, row)
        for name, head in zip(model.names, model.heads, strict=True):
            torch.testing.assert_close(found[name][i], head(features), rtol=1e-10, atol=1e-12)
    assert {name: output.shape[1] for name, output in found.items()} == {"a": 1, "b": 3, "c": 1}


def test_more_padding_changes_nothing(data):
    model = drawn(text_encoder(data, width=8))
    longest = int((data.train.x != PADDING).sum(1).max())
    short = copy.deepcopy(model)
    short.trunk.place.weight = nn.Parameter(model.trunk.place.weight[:longest])
    for name, output in model(data.train.x.double()).items():
        torch.testing.assert_close(output, short(data.train.x[:, :longest].double())[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ids_travel_as_numbers_exactly(dtype):
    ids = torch.cat([torch.arange(300_000), torch.tensor([2**24 - 1])])
    assert torch.equal(code._ids_and_mask(ids.to(dtype).unsqueeze(0), PADDING)[0][0], ids)


@torch.no_grad()
def test_evaluation_in_parts_gives_the_same(data, monkeypatch):
    model = drawn(text_encoder(data, width=8)).eval()
    whole = model(data.train.x.double())
    monkeypatch.setattr(code, "TOKENS_AT_ONCE", 5 * LENGTH)
    sizes, encode = [], model.trunk.encode
    monkeypatch.setattr(model.trunk, "encode", lambda x: sizes.append(len(x)) or encode(x))
    for name, output in model(data.train.x.double()).items():
        torch.testing.assert_close(output, whole[name], rtol=1e-12, atol=1e-12)
    assert sizes == [5, 5, 5, 5, 4]
    model.train()(data.train.x.double())
    assert sizes[5:] == [24]


def check_derivatives(model, split):
    """Forward mode, under vmap too, and double reverse mode, against a loop of plain gradients."""
    x, targets = split.x.double(), pack(TASKS, split.y)
    state = dict(model.named_parameters())
    shared = {name: value for name, value in state.items() if name.startswith("trunk.")}
    generator = torch.Generator().manual_seed(7)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in shared.items()}

    def losses(own):
        return per_sample_losses(TASKS, functional_call(model, {**state, **own}, (x,)), targets)

    live, alignment = aligned_losses(losses, shared, direction)
    slow = torch.zeros_like(live)
    plain = losses({})
    for b, t in torch.nonzero(plain.detach()).tolist():
        each = torch.autograd.grad(plain[b, t], list(shared.values()), retain_graph=True, allow_unused=True)
        pairs = zip(each, direction.values(), strict=True)
        slow[b, t] = sum((g * d).sum() for g, d in pairs if g is not None)
    assert (slow != 0).sum() == len(x)
    torch.testing.assert_close(live, plain)
    torch.testing.assert_close(alignment, slow.detach(), rtol=1e-8, atol=1e-10)

    two = {name: torch.stack([value, 1.1 * value]).detach() for name, value in shared.items()}
    stacked = {name: torch.stack([value, value]) for name, value in direction.items()}

    def both(own):
        return torch.vmap(losses)(own)

    _, found = aligned_losses(both, {n: v.requires_grad_() for n, v in two.items()}, stacked)
    torch.testing.assert_close(found[0], slow.detach(), rtol=1e-8, atol=1e-10)
    second = {name: value[1].detach().requires_grad_() for name, value in two.items()}
    torch.testing.assert_close(found[1], aligned_losses(losses, second, direction)[1], rtol=1e-8, atol=1e-10)

    slope = torch.autograd.grad(losses({}).sum(), list(shared.values()), create_graph=True, allow_unused=True)
    along = sum((g * d).sum() for g, d in zip(slope, direction.values(), strict=True) if g is not None)
    product = torch.autograd.grad(along, list(shared.values()), allow_unused=True)
    step = 1e-6
    moved = []
    for sign in (1, -1):
        at = {n: (p + sign * step * direction[n]).detach().requires_grad_() for n, p in shared.items()}
        moved.append(torch.autograd.grad(losses(at).sum(), list(at.values()), allow_unused=True))
    for hessian, ahead, behind in zip(product, *moved, strict=True):
        if hessian is not None:
            torch.testing.assert_close(hessian, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


def test_derivatives_of_text_encoder(data):
    check_derivatives(drawn(text_encoder(data, width=8, layers=2)), data.train)


FIT = {"epochs": 2, "batch_size": 8, "steps_per_epoch": 2, "lr": 0.1, "dtype": torch.float64}
METHODS = [mtl.Uniform(), mtl.SLGrad(), mtl.HydaLearn(), mtl.GradNorm(), mtl.AlphaVIL(), mtl.DIW()]


def values(runs, seed):
    rows = runs.frame[(runs.frame.seed == seed) & (runs.frame.metric != "weight_sd")]
    return torch.tensor(rows["value"].to_numpy())


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_seeds_of_text_encoder_are_the_same_alone_and_stacked(data, method):
    model = text_encoder(data, width=8, dropout=0.2)
    together = mtl.fit(model, data, method, seeds=[3, 4], **FIT)
    assert not together.frame["diverged"].any()
    for seed in (3, 4):
        alone = mtl.fit(model, data, method, seeds=[seed], **FIT)
        torch.testing.assert_close(values(together, seed), values(alone, seed), rtol=1e-8, atol=1e-8, equal_nan=True)


def test_text_encoder_learns_what_the_texts_say(data):
    """Whether the second text repeats the first's word: it takes both texts and where they are."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, 9, (2, 400), generator=generator)
    same = torch.rand(400, generator=generator) < 0.5
    words[1] = torch.where(same, words[0], 3 + (words[0] - 3 + words[1] - 2) % 6)
    ends = torch.full((400,), SEPARATOR)
    x = torch.stack([torch.ones(400), words[0], ends, words[1], ends, torch.zeros(400)], 1)
    y = (words[0] == words[1]).float()
    split = Split(x, {"a": y}, torch.arange(400), torch.zeros(400, 1, dtype=torch.bool))
    parts = [split.take(part) for part in torch.arange(400).split([300, 50, 50])]
    pairs = Dataset("same", TASKS[:1], *parts, text=data.text)
    model = text_encoder(pairs, width=16)
    runs = mtl.fit(model, pairs, mtl.Uniform(), epochs=15, batch_size=30, lr=5e-3, optimizer=torch.optim.Adam, seeds=1)
    final = runs.frame[(runs.frame.split == "test") & (runs.frame.metric == "accuracy")]["value"]
    assert final.iloc[-1] >= 0.9


@pytest.mark.parametrize("build", [text_encoder, lambda data: hugging_face(data, "nowhere")])
def test_models_of_token_ids_take_nothing_else(data, build):
    if build is not text_encoder:
        pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"pairs: inputs are no token ids, which \w+ takes"):
        build(replace(data, text=None))


def test_bad_options(data):
    with pytest.raises(ValueError, match="width is 10 and heads is 4, expected a width that the heads divide"):
        text_encoder(data, width=10, heads=4)
    with pytest.raises(ValueError, match="pairs: inputs are token ids, expected quantities or categories"):
        mlp(data)


def test_recipe_of_text_encoder(data):
    assert text_encoder(data).recipe == "text_encoder(data)"
    line = text_encoder(data, width=8, layers=2).recipe
    assert line == "text_encoder(data, layers=2, width=8)"
    again = make(line, {"text_encoder": text_encoder, "data": data})
    assert str(again) == str(text_encoder(data, width=8, layers=2))


def test_a_module_that_keeps_its_weights(data):
    model = mtl.models.MultiTaskModel(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), {"a": nn.Linear(4, 1)})
    before = copy.deepcopy(model.state_dict())
    model.trunk.keeps_weights = True
    initialise(model, torch.Generator().manual_seed(1))
    after = model.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == {"trunk.0.weight", "trunk.0.bias"}


# Hugging Face's encoders.

CONFIG = {
    "vocab_size": ENTRIES, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture
def hub():
    return pytest.importorskip("transformers")


@pytest.fixture
def bert(hub):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = hub.BertModel(hub.BertConfig(**CONFIG))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def saved(bert, tmp_path):
    bert.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_hugging_face_by_path_is_the_saved_model(data, bert, saved):
    model = hugging_face(data, saved).eval()
    bert.eval()
    for i, row in enumerate(data.train.x):
        ids = row[row != PADDING].long()
        second = torch.arange(len(ids)) > int((ids == SEPARATOR).nonzero()[0])
        wanted = bert(input_ids=ids[None], token_type_ids=second.long()[None]).last_hidden_state[:, 0]
        torch.testing.assert_close(model.trunk(data.train.x[i : i + 1]), wanted, rtol=1e-4, atol=1e-5)
    assert not any("pooler" in name for name, _ in model.named_parameters())
    assert model.recipe == f"hugging_face(data, encoder={str(saved)!r})"
    again = make(model.recipe, {"hugging_face": hugging_face, "data": data})
    assert all(torch.equal(p, q) for p, q in zip(model.trunk.parameters(), again.trunk.parameters(), strict=True))


def test_hugging_face_starts_from_its_weights_and_draws_the_heads(data, saved):
    model = hugging_face(data, saved)
    first, second = (drawn(model, seed, torch.float32).state_dict() for seed in (1, 2))
    for name, value in model.state_dict().items():
        if name.startswith("trunk."):
            assert torch.equal(first[name], value)
            assert torch.equal(second[name], value)
        else:
            assert not torch.equal(first[name], second[name])


def test_dropout_of_attention_is_off_and_other_dropout_stays(data, bert, saved):
    torch.manual_seed(1)
    model = hugging_face(data, bert)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    for head in model.heads:
        nn.Linear(8, head.out_features)
    assert torch.equal(torch.get_rng_state(), after)
    rates = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    attention = {name for name in rates if name.endswith("attention.self.dropout")}
    assert len(attention) == 1
    assert {name for name, rate in rates.items() if rate == 0} == attention
    assert set(rates.values()) == {0.0, 0.1}
    assert bert.pooler is not None
    assert {m.p for m in bert.modules() if isinstance(m, nn.Dropout)} == {0.1}
    assert not hasattr(model, "recipe")


def test_derivatives_of_hugging_face(data, bert):
    check_derivatives(drawn(hugging_face(data, bert)).eval(), data.train)


@pytest.mark.parametrize("kind", ["Roberta", "Electra", "Albert", "DistilBert"])
def test_other_encoders(data, hub, kind):
    given = {**CONFIG, "pad_token_id": PADDING, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    if kind == "DistilBert":
        given = {"vocab_size": ENTRIES, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "pad_token_id": PADDING}
    if kind in ("Electra", "Albert"):
        given["embedding_size"] = 8
    config = getattr(hub, f"{kind}Config")(**given)
    model = hugging_face(data, getattr(hub, f"{kind}Model")(config))
    runs = mtl.fit(model, data, mtl.SLGrad(), seeds=2, **{**FIT, "epochs": 1})
    assert not runs.frame["diverged"].any()
    check_derivatives(drawn(model).eval(), data.train)


@pytest.mark.parametrize("method", [*METHODS, mtl.OrthogonalGradients()], ids=lambda m: type(m).__name__)
def test_seeds_of_hugging_face_are_the_same_alone_and_stacked(data, saved, method):
    model = hugging_face(data, saved)
    together = mtl.fit(model, data, method, seeds=[3, 4], **FIT)
    assert not together.frame["diverged"].any()
    alone = mtl.fit(model, data, method, seeds=[4], **FIT)
    torch.testing.assert_close(values(together, 4), values(alone, 4), rtol=1e-8, atol=1e-8, equal_nan=True)
    moved = together.state_dict(4, "last")
    name = "trunk.encoder.embeddings.word_embeddings.weight"
    assert not torch.equal(moved[name].float(), model.state_dict()[name])


@pytest.mark.parametrize("method", [mtl.Uniform(), mtl.SLGrad(), mtl.HydaLearn()], ids=lambda m: type(m).__name__)
def test_two_steps_of_hugging_face_with_weigher(data, saved, method):
    model = hugging_face(data, saved)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weigh = mtl.Weigher(model, TASKS, method, shared=model.trunk, lr=0.1)
    seen = [copy.deepcopy(model.state_dict())]
    for start in (0, 12):
        batch = data.train.take(torch.arange(start, start + 12))
        optimizer.zero_grad()
        loss = weigh(batch.x, batch.y, meta=(data.meta.x, data.meta.y))
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        seen.append(copy.deepcopy(model.state_dict()))
        assert weigh.weights.sum() == pytest.approx(1, abs=1e-5)
    name = "trunk.encoder.encoder.layer.0.attention.self.query.weight"
    assert len({float(state[name].sum()) for state in seen}) == 3


class Fickle(nn.Module):
    """Dropout without a layer of it, between an encoder's embeddings and its layers."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *given, **options):
        return F.dropout(self.inner(*given, **options), 0.5, self.training)


def test_encoders_that_cannot_be_used(data, hub, bert, tmp_path):
    with pytest.raises(ValueError, match="vocabulary of 31 entries, BertModel one of 30: expected the encoder's own"):
        hugging_face(replace(data, text=replace(data.text, entries=31)), bert)
    with pytest.raises(ValueError, match="padding has id 4, BertModel expects 0"):
        hugging_face(replace(data, text=replace(data.text, padding=4)), bert)
    small = hub.BertModel(hub.BertConfig(**{**CONFIG, "max_position_embeddings": 11}))
    with pytest.raises(ValueError, match="inputs have 12 tokens, BertModel takes at most 11"):
        hugging_face(data, small)
    for places, padding in ((12 + PADDING, PADDING), (13, 1)):
        config = hub.RobertaConfig(**{**CONFIG, "max_position_embeddings": places, "pad_token_id": padding})
        longer = replace(data, text=replace(data.text, padding=padding))
        with pytest.raises(ValueError, match="inputs have 12 tokens, RobertaModel takes at most 11"):
            hugging_face(longer, hub.RobertaModel(config))
    other = hub.DebertaV2Model(hub.DebertaV2Config(**CONFIG))
    with pytest.raises(ValueError, match="DebertaV2Model does not take a ready attention mask: padding changes"):
        hugging_face(data, other)
    bert.embeddings = Fickle(bert.embeddings)
    with pytest.raises(ValueError, match=r"BertModel draws random numbers in training beside its nn.Dropout layers"):
        hugging_face(data, bert)
    with pytest.raises(OSError, match="nothing-here"):
        hugging_face(data, tmp_path / "nothing-here")


def test_a_roberta_takes_rows_as_long_as_its_places_behind_the_padding(data, hub):
    config = hub.RobertaConfig(**{**CONFIG, "max_position_embeddings": 13 + PADDING, "pad_token_id": PADDING})
    model = hugging_face(data, hub.RobertaModel(config))
    full = torch.full((2, 12), 5)
    full[:, 6] = data.text.separator
    assert all(torch.isfinite(output).all() for output in model(full).values())


def test_without_transformers(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install mtlkit\[language\]"):
        hugging_face(data, "bert")
