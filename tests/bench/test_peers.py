"""ONNX Runtime and OpenVINO, where they are installed (`pip install lxmert-fast[peers]`)."""

from __future__ import annotations

import sys

import pytest

from lxmert_fast.bench.contenders import REFERENCE, contenders
from lxmert_fast.bench.race import Race
from lxmert_fast.bench.workloads import batches, config_for, workload


def race_with(name, peer):
    chosen = workload(name).sized(4)
    config = config_for(chosen, tiny=True)
    drawn = batches(chosen, config)
    return Race(contenders(chosen, config, drawn, "inference", [REFERENCE, peer]), say=lambda _: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("peer", "needs"), [("onnxruntime", "onnxscript"), ("openvino", "openvino")])
@pytest.mark.parametrize("name", ["vqa", "nlvr2"])
def test_an_exported_model_gives_the_scores_of_the_reference(name, peer, needs):
    pytest.importorskip(peer, exc_type=ImportError)
    pytest.importorskip(needs, exc_type=ImportError)
    race = race_with(name, peer)
    race.round()
    row = race.entries[peer].to_json()
    assert row["fault"] is None
    assert row["difference"] < 1e-5


@pytest.mark.parametrize("peer", ["onnxruntime", "openvino"])
def test_a_peer_that_is_not_installed_says_so(monkeypatch, peer):
    for package in ("onnx", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    entry = race_with("vqa", peer).entries[peer]
    assert "pip install lxmert-fast[peers]" in entry.fault
    assert not entry.failed
