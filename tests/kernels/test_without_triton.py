"""A machine without Triton: everything imports, a model runs, the operators compute their formulas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

PROGRAM = """
import importlib.abc, importlib.util, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Absent())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "triton" else find(name, package)

import pkgutil, torch, lxmert_fast, lxmert_fast.kernels
from lxmert_fast.kernels.dispatch import has_triton, implementation
assert not has_triton()
from lxmert_fast import LxmertConfig, LxmertForQuestionAnswering

config = LxmertConfig(
    vocab_size=50, hidden_size=32, num_attention_heads=2, intermediate_size=40, l_layers=1, r_layers=1,
    x_layers=1, visual_feat_dim=8, num_qa_labels=5,
)
model = LxmertForQuestionAnswering(config).eval()
batch = dict(
    input_ids=torch.tensor([[1, 2, 3], [4, 5, 0]]), attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
    visual_feats=torch.rand(2, 4, 8), visual_pos=torch.rand(2, 4, 4),
)
answers = []
for choice in ("auto", "operator"):
    with implementation(choice):
        scores = model(**batch).question_answering_score
        scores.sum().backward()
        answers.append(scores.detach())
torch.testing.assert_close(*answers)
assert not any(name.split(".")[0] == "triton" for name in sys.modules)
print("answered", tuple(answers[0].shape))
"""


def test_a_model_without_triton():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPO, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "answered (2, 5)" in done.stdout
