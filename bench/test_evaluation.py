"""Do reading and writing hide behind the model? `evaluate` and `predict` against the model alone.

    pytest bench/test_evaluation.py [--whole]

Questions in the VQA format, 5.3 an image and not in the order of the images, with the lengths of real ones;
the base size with random weights, batches of 96 as in the benchmark `vqa`. The model alone answers the same
batches, made while its clock stands, in the same process. The commands must reach 0.9 of its rate: with
`--whole`, of 100,000 questions, from the command to the written file; of the sample, from the first batch on,
because opening a model takes as long as some batches.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lxmert_fast.answering import save_model_folder
from lxmert_fast.bench.synthetic import OBJECTS, WORDS, write_regions, write_vocabulary
from lxmert_fast.bench.workloads import HISTOGRAMS, config_for, workload
from lxmert_fast.data.question_index import QuestionIndex
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.sharing import Runs
from lxmert_fast.models import LxmertForQuestionAnswering
from lxmert_fast.train import evaluate, predict, streaming
from lxmert_fast.train.streaming import grouped_batches

VQA = workload("vqa")
TINY, SAMPLE, WHOLE = 2 * VQA.pairs, 20 * VQA.pairs, 100_000
WANTED = 0.9


class Files(NamedTuple):
    """What the commands are given."""

    model: Path
    questions: Path
    regions: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny: bool, whole: bool) -> Iterator[Files]:
    """148 kB of regions an image: 2.8 GB with `--whole`."""
    folder = tmp_path_factory.mktemp("evaluation")
    count = TINY if tiny else WHOLE if whole else SAMPLE
    images = round(count / VQA.per_image)
    store = write_regions(folder / "regions.h5", images)
    text = write_vocabulary(folder / "vocab.txt")
    config = config_for(VQA, tiny=tiny)
    config.vocab_size, config.visual_feat_dim = text.vocab_size, store.feature_size
    config.num_qa_labels = VQA.num_answers
    answers = [f"answer{number}" for number in range(config.num_qa_labels)]
    save_model_folder(LxmertForQuestionAnswering(config), text, answers, folder / "model")
    yield Files(folder / "model", _write_questions(folder / "q.json", count, images), folder / "regions.h5")
    (folder / "regions.h5").unlink()


def _write_questions(path: Path, count: int, images: int) -> Path:
    rng = np.random.default_rng(0)
    lengths = np.asarray(HISTOGRAMS[VQA.texts]["lengths"])
    # [CLS] and [SEP] are two of the tokens
    words = rng.choice(len(lengths), size=count, p=lengths / lengths.sum()) - 2
    asked = rng.permutation(np.arange(count) % images)
    rows = [
        {
            "question_id": number,
            "img_id": f"image{image}",
            "sent": " ".join(WORDS[word] for word in rng.integers(len(WORDS), size=length)),
            "label": {f"answer{rng.integers(VQA.num_answers)}": 1.0},
        }
        for number, (image, length) in enumerate(zip(asked, words, strict=True))
    ]
    path.write_text(json.dumps(rows))
    return path


@torch.no_grad()
def model_alone(files: Files) -> float:
    """Seconds that the model takes for the batches of the commands."""
    loaded = evaluate.load(files.model, "cpu", compiled=False, int8=False)
    loaded.model.eval()
    seconds = 0.0
    with RegionStore(files.regions) as store:
        index = QuestionIndex(files.questions, store, loaded.text)
        for number, key in enumerate(grouped_batches(Runs(index.images), VQA.pairs)):
            inputs = index[key].inputs
            assert inputs["visual_feats"].shape[1] == OBJECTS
            if not number:
                loaded.model(**inputs)  # the first call allocates
            began = time.perf_counter()
            loaded.model(**inputs).question_answering_score.argmax(-1)
            seconds += time.perf_counter() - began
    return seconds


def run_evaluate(files: Files, out: Path) -> None:
    """`lxmert-fast evaluate`."""
    evaluate.evaluate_files(
        files.model, files.questions, [files.regions], batch_size=VQA.pairs, device="cpu", predictions=out
    )


def run_predict(files: Files, out: Path) -> None:
    """`lxmert-fast predict`."""
    predict.predict_files(
        files.model, files.questions, out, [files.regions], batch_size=VQA.pairs, device="cpu"
    )


@pytest.mark.benchmark(group="evaluation: seconds of a command")
@pytest.mark.parametrize("command", [run_evaluate, run_predict])
def test_reading_and_writing_hide_behind_the_model(
    benchmark: BenchmarkFixture,
    files: Files,
    tmp_path: Path,
    tiny: bool,
    whole: bool,
    command: Callable[[Files, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`extra_info` has the rates, in ms a question, and their ratio."""
    alone = model_alone(files)
    marks: list[float] = []
    stream = streaming.best_answers

    def marked(*args: Any, **options: Any) -> Iterator[Any]:
        marks.append(time.perf_counter())
        return stream(*args, **options)

    for room in (evaluate, predict):
        monkeypatch.setattr(room, "best_answers", marked)
    began = time.perf_counter()
    benchmark.pedantic(lambda: command(files, tmp_path / "out.json"), rounds=1)
    ended = time.perf_counter()
    questions = len(json.loads((tmp_path / "out.json").read_text()))
    ratio = alone / (ended - (began if whole else marks[0]))
    benchmark.extra_info |= {
        "questions": questions,
        "seconds_before_the_first_batch": marks[0] - began,
        "ms_a_question": 1000 * (ended - began) / questions,
        "ms_a_question_from_the_first_batch": 1000 * (ended - marks[0]) / questions,
        "ms_a_question_of_the_model_alone": 1000 * alone / questions,
        "rate_against_the_model_alone": ratio,
    }
    if not tiny:
        assert ratio >= WANTED
