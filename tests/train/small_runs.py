"""Small pre-training runs in processes of their own, as a launcher starts them.

    python small_runs.py JOBS.json     runs one after another, in one process group

A test calls `run_ranks(2, jobs)`; each job is settings as a tree, its summary is what `pretrain` returns.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "data"), str(HERE.parent / "model")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def write_data(folder: Path, images: int = 20) -> dict[str, Any]:
    """Files of a small data set; the "data" and "model" sections that fit them."""
    from small_data import aggregated, known_store, small_encoder, write_json

    folder.mkdir(parents=True, exist_ok=True)
    store = known_store(folder, [3 + image % 3 for image in range(images)])
    return {
        "data": {
            "train": [str(write_json(folder / "train.json", aggregated(images, 2, 2)))],
            "valid": [str(write_json(folder / "valid.json", aggregated(5, 1, 1, seed=1)))],
            "regions": [str(path) for path in store.paths],
            "vocabulary": str(small_encoder(folder).vocabulary),
        },
        "model": {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "l_layers": 1,
            "r_layers": 1,
            "x_layers": 2,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    }


def job(base: dict[str, Any], output: Path, **optimisation: Any) -> dict[str, Any]:
    """20 updates of 16 pairs in four epochs, no dropout; what `optimisation` says on top."""
    run = optimisation.pop("run", {})
    data, model = optimisation.pop("data", {}), optimisation.pop("model", {})
    return {
        "data": base["data"] | data,
        "model": base["model"] | model,
        "optimisation": {"batch_size": 16, "epochs": 4, "lr": 1e-3, "warmup": 0.1} | optimisation,
        "run": {"output": str(output), "workers": 0, "log_every": 1, "device": "cpu", "trace": True}
        | {"checkpoint_every": 4, "keep": 10, "start_timeout": 60}
        | run,
    }


def write_questions(folder: Path, base: dict[str, Any]) -> dict[str, Any]:
    """Questions about the images of `write_data`; the "data" section of a fine-tuning."""
    from small_data import write_json

    for name, count in (("questions", 80), ("held out", 23)):
        rows = [
            {
                "question_id": number,
                "img_id": f"i{number % 20}",
                "sent": f"w{number % 90} w{(7 * number) % 90} w{number % 11}",
                "label": {f"a{number % 3}": 1.0, "a3": 0.3},
            }
            for number in range(count)
        ]
        write_json(folder / f"{name}.json", rows)
    files = {"train": str(folder / "questions.json"), "valid": str(folder / "held out.json")}
    return files | {name: base["data"][name] for name in ("regions", "vocabulary")}


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher sets."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "TRITON_DEFAULT_FP_FUSION": "0",
    }


def start_ranks(size: int, words: list[str], **more: str) -> list[subprocess.Popen[str]]:
    """`python words...` on so many ranks; no launcher watches them."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(rank, size, port) | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


def run_ranks(size: int, jobs: list[dict[str, Any]], timeout: float = 240) -> list[dict[str, Any]]:
    """Jobs in turn on so many ranks; their summaries. Fails with what the ranks printed."""
    output = Path(jobs[0]["run"]["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    plan = output.with_name(f"{output.name}-jobs.json")
    plan.write_text(json.dumps(jobs))
    ranks = start_ranks(size, [str(HERE / "small_runs.py"), str(plan)])
    try:
        told = [rank.communicate(timeout=timeout)[0] for rank in ranks]
    finally:
        for rank in ranks:  # those that a time-out leaves would take time from all tests after it
            rank.kill()
    assert not any(rank.returncode for rank in ranks), "\n".join(told)
    return json.loads(plan.with_suffix(".out").read_text())


def train(tree: dict[str, Any]) -> dict[str, Any]:
    """Run a job in this process."""
    from lxmert_fast.train.finetuning import finetune
    from lxmert_fast.train.pretraining import pretrain
    from lxmert_fast.train.settings import FinetuneSettings, PretrainSettings, check_settings

    if tree.get("task", "pretrain") == "pretrain":
        return pretrain(check_settings(PretrainSettings, tree, "test"))
    return finetune(check_settings(FinetuneSettings, tree, "test"))


def _take_half_precision() -> None:
    """DeepSpeed takes fp16 on a processor with AVX-512 FP16 alone, PyTorch computes in it on any."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def _main(plan: Path) -> None:
    _take_half_precision()
    jobs = json.loads(plan.read_text())
    summaries = [train(tree) for tree in jobs]
    if os.environ["RANK"] == "0":
        plan.with_suffix(".out").write_text(json.dumps(summaries))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
