import io

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import mtlkit as mtl

CELL = """\
%matplotlib inline
import pandas as pd
import mtlkit as mtl

live = mtl.LiveWeights("weights", epochs=3)
for end in range(1, {epochs} + 1):
    pairs = [(s, e) for e in range(1, end + 1) for s in (0, 1)]
    rows = [(*pair, t, 0.5 + sign * 0.1 * pair[1]) for pair in pairs for t, sign in (("a", 1), ("b", -1))]
    live(pd.DataFrame(rows, columns=["seed", "epoch", "task", "value"]))
"""


def test_a_notebook_keeps_one_picture_the_last_and_the_same_every_time():
    cells = [nbformat.v4.new_code_cell(CELL.format(epochs=epochs)) for epochs in (3, 3, 1)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3").execute()
    outputs = [[o for o in cell.outputs if o.get("name") != "stderr"] for cell in notebook.cells]
    assert [[o.output_type for o in own] for own in outputs] == [["display_data"]] * 3
    done, again, first = (own[0].data["image/png"] for own in outputs)
    assert done == again
    assert done != first


def test_it_watches_training():
    data = mtl.datasets.load("digits", label_noise=0.6).only(["is_8", "is_3"])
    live, seen = mtl.LiveWeights("SLGrad", epochs=3), []

    def watch(rows):
        live(rows)
        seen.append(live.figure)

    options = {"epochs": 3, "batch_size": 100, "seeds": 2, "dtype": torch.float64, "device": "cpu"}
    runs = mtl.fit(mtl.models.mlp(data), data, mtl.SLGrad(), watch=watch, **options)
    assert len(set(map(id, seen))) == 3
    axis = live.figure.axes[0]
    assert [line.get_label() for line in axis.lines] == ["is_8", "is_3"]
    rows = runs.frame[(runs.frame.metric == "weight") & (runs.frame.task == "is_3")]
    assert axis.lines[1].get_ydata().tolist() == pytest.approx(rows.groupby("epoch")["value"].mean().tolist())
    assert axis.get_xlim() == (1, 3)
    pictures = []
    for _ in range(2):
        file = io.BytesIO()
        live.figure.savefig(file, format="png", metadata={"Software": None})
        pictures.append(file.getvalue())
    assert pictures[0] == pictures[1]
