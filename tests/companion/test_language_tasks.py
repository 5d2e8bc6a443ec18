"""The study of language tasks with a saved encoder of Hugging Face's in place of the small one."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from companion import notebook

CONFIG = {
    "vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def encoder(tmp_path):
    """The folder of a small BERT with a tokeniser of whole words."""
    hub, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    entries = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "fox", "bear", "no"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(entries, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    folder = tmp_path / "encoder"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hub.BertModel(hub.BertConfig(**CONFIG)).save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_the_same_cells_fine_tune_a_saved_encoder(encoder, tmp_path):
    values = yaml.safe_load(Path("params.yaml").read_text())["language_tasks"] | {
        "encoder": str(encoder), "targets": ["paraphrase", "blank"], "n_train": 40, "n_test": 20, "epochs": 1,
        "steps_per_epoch": 4, "learning_rates": [0.003], "seeds": 2, "jobs": 1, "out": str(tmp_path / "out"),
        "store": str(tmp_path / "runs.parquet"),
    }  # fmt: skip
    source = tmp_path / "source.ipynb"
    notebook.write_notebook(notebook.stripped(nbformat.read("notebooks/language_tasks.ipynb", 4)), source)
    notebook.run_notebook(source, tmp_path / "executed.ipynb", values)
    stored = pd.read_parquet(tmp_path / "runs.parquet")
    assert f"hugging_face(data, encoder={str(encoder)!r})" in set(stored["model"])
    numbers = pd.read_csv(tmp_path / "out" / "language_tasks_per_seed.csv")
    accuracy = numbers[numbers["metric"] == "accuracy"]
    assert {"single task", "Uniform", "AlphaVIL", "DIW", "ForkMerge", "linear model"} <= set(accuracy["method"])
    assert accuracy["value"].between(0, 1).all()
    assert set(accuracy["condition"]) == {"target: paraphrase", "target: blank"}
