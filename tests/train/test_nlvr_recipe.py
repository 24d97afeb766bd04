"""A few hundred updates of the shipped NLVR recipe, on a part of the real data and a narrower model."""

from __future__ import annotations

from pathlib import Path

from nlvr_files import cut_down_nlvr

from lxmert_fast.data.nlvr_folder import make_folder
from lxmert_fast.train.config_files import CONFIGS
from lxmert_fast.train.finetuning import finetune
from lxmert_fast.train.pretraining import pretrain
from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, load_settings

SMALL = [
    "model.hidden_size=48",
    "model.intermediate_size=96",
    "model.l_layers=1",
    "model.r_layers=1",
    "model.x_layers=1",
    "model.hidden_dropout_prob=0",
    "run.log_every=50",
]


def test_losses_fall(shared_data: Path, tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    data = tmp_path / "data"
    make_folder(cut_down_nlvr(shared_data / "nlvr", source, pairs=1_600, held_out=64), data, orders=2)
    pretrained = pretrain(
        load_settings(
            PretrainSettings,
            CONFIGS / "nlvr_pretrain.yaml",
            [
                f"data.train=[{data / 'pretrain.json'}]",
                f"data.valid=[{data / 'pretrain_valid.json'}]",
                f"data.regions=[{data / 'regions.h5'}]",
                f"data.vocabulary={data / 'vocab.txt'}",
                f"data.answers={data / 'label2ans.json'}",
                f"run.output={tmp_path / 'pretrained'}",
                *SMALL,
                "optimisation.batch_size=32",
                "optimisation.lr=1e-3",
                "optimisation.epochs=2",
            ],
        )
    )
    assert pretrained["updates"] == 200
    first, last = pretrained["first_losses"], pretrained["last_losses"]
    assert first.keys() == last.keys() >= {"mask_lm", "matched", "obj", "attr", "feat", "qa"}
    for name in ("mask_lm", "obj", "attr", "feat"):
        assert last[name] < 0.8 * first[name], name
    # two classes each; two hundred updates are too few to leave chance for good, not to reach it
    for name in ("matched", "qa"):
        assert last[name] < 0.75, name

    finetuned = finetune(
        load_settings(
            FinetuneSettings,
            CONFIGS / "nlvr.yaml",
            [
                f"data.folder={data}",
                f"model.start_from={tmp_path / 'pretrained/best'}",
                f"run.output={tmp_path / 'finetuned'}",
                "optimisation.batch_size=64",
                "optimisation.epochs=2",
            ],
        )
    )
    assert finetuned["last_losses"]["total"] < finetuned["first_losses"]["total"]
    assert 0.0 <= finetuned["best"]["accuracy"] <= 1.0


def test_shipped_configurations_agree():
    """Fine-tuning without pre-training is the same model as pre-training's."""
    pretraining = load_settings(PretrainSettings, CONFIGS / "nlvr_pretrain.yaml").model
    finetuning = load_settings(FinetuneSettings, CONFIGS / "nlvr.yaml").model
    assert finetuning.model_copy(update={"start_from": None}) == pretraining
    assert finetuning.start_from == Path("runs/nlvr/pretrained/best")
