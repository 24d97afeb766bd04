"""One rank that trains a small model under DeepSpeed, stage by stage, and counts its tensors and its bytes.

Started by the launcher or by hand: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are in the environment, and
GLOO_SOCKET_IFNAME where the ranks are on two hosts. The last arguments: cases as JSON, and a folder.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import deepspeed
import psutil
import torch
from deepspeed import comm
from transformers import LxmertConfig

from lxmert_fast.bench.counts import count
from lxmert_fast.bench.workloads import batches, workload
from lxmert_fast.models import LxmertForPreTraining
from lxmert_fast.train.deepspeed_engine import import_deepspeed

#: Few modules and two million parameters, so that what is sent is weights and not headers.
SIZES: dict[str, Any] = {
    "vocab_size": 6000,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "l_layers": 1,
    "r_layers": 1,
    "x_layers": 1,
    "visual_feat_dim": 32,
    "num_object_labels": 13,
    "num_attr_labels": 7,
    "num_qa_labels": 29,
    "max_position_embeddings": 32,
}
PAIRS = 4
#: Elements; LayerNorms and biases are below the threshold, as they are with the paper's sizes.
BUCKET, THRESHOLD = 400_000, 600


def live() -> int:
    """Bytes of all tensors made since `gc.freeze`, memory that several share once."""
    # gloo's two threads let go of what they sent a moment after the caller goes on, and before they go on
    comm.barrier()
    comm.barrier()
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    # a gradient that nobody has looked at yet is no Python object
    tensors += [x.grad for x in tensors if x.is_leaf and x.grad is not None]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def bytes_sent() -> int:
    """By this host's interface since it came up."""
    counters = psutil.net_io_counters(pernic=True)
    return counters[os.environ.get("GLOO_SOCKET_IFNAME", "lo")].bytes_sent


def measure(case: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
    """Two updates; the second is measured, when stage 3 knows the order of the layers."""
    gc.collect()
    gc.freeze()
    torch.manual_seed(0)
    model = LxmertForPreTraining(LxmertConfig(**SIZES))
    model.loss_only = True
    settings = {
        "train_micro_batch_size_per_gpu": PAIRS,
        "gradient_accumulation_steps": case["accumulation"],
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": case["stage"],
            "reduce_bucket_size": BUCKET,
            "stage3_param_persistence_threshold": THRESHOLD,
            "stage3_max_reuse_distance": case["max_reuse_distance"],
            "stage3_prefetch_bucket_size": min(case["max_reuse_distance"], 50_000_000),
        },
        "bf16": {"enabled": case["precision"] == "bf16"},
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if case["precision"] == "bf16":
        batch = batch | {name: batch[name].bfloat16() for name in ("visual_feats", "visual_pos")}
    found: dict[str, Any] = {}
    for last in (False, True):
        comm.barrier()
        sent = bytes_sent()
        for number in range(case["accumulation"]):
            loss = engine(**batch).loss
            if last:
                found["gathered"] = sum(
                    p.data.nbytes for p in model.parameters() if hasattr(p, "ds_id") and not p.ds_persist
                )
            engine.backward(loss)
            del loss
            if number == 0 and case["accumulation"] > 1:
                if last:
                    found["accumulating"] = live()
                engine.step()
        if not last:
            engine.step()
            continue
        found["ready"] = live()
        found["update"] = count(engine.step).peak_bytes
        found["resting"] = live()
        comm.barrier()
        found["sent"] = bytes_sent() - sent
    engine.destroy()
    return found


def main(cases: list[dict[str, Any]], folder: Path) -> None:
    """Write what was found in each case to FOLDER/RANK.json."""
    import_deepspeed()  # without what it would compile first
    deepspeed.init_distributed("gloo")
    batch = batches(workload("captions").sized(PAIRS), LxmertConfig(**SIZES), labels=True).ours
    found = [case | measure(case, batch) for case in cases]
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[-2]), Path(sys.argv[-1]))
