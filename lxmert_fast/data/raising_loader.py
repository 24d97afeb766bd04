"""A mistake in the data met by a loader's worker, told as if there were no workers.

PyTorch raises it with the worker's whole traceback for its message. What is for people, an `InputError`, is
therefore sent like a batch and raised on arrival.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lxmert_fast.errors import InputError


class RaisingLoader(DataLoader):
    """A `DataLoader` of whole batches that raises the `InputError` of `dataset[key]` as it is.

    Args:
        dataset: map-style; an item is a batch.
        options: `DataLoader`'s.
    """

    def __init__(self, dataset: Dataset, **options: Any) -> None:
        super().__init__(_Telling(dataset), batch_size=None, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # asked for here and not in the generator: workers begin when the epoch does
        return _raised(super().__iter__())


class _Telling(Dataset):
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._dataset[key]
        except InputError as error:
            return error


def _raised(items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, InputError):
            try:
                raise item
            finally:
                # an error that holds its own frame waits for the garbage collector, which closes the queues
                # before the loader can tell its workers to end: 5 seconds
                del item
        yield item
