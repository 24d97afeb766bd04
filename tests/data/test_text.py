"""Ids and masks are Hugging Face's, vocabularies are refused for a named reason, learning is repeatable."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_data import small_encoder
from transformers import BertTokenizer

from lxmert_fast.data.ragged import Ragged
from lxmert_fast.data.text import SPECIAL_TOKENS, TextEncoder, learn_vocabulary
from lxmert_fast.errors import InputError

TRICKY = [
    "",
    "   ",
    "?",
    "What's that [MASK] doing?",
    "[CLS] [SEP] [PAD] [UNK] [mask]",
    "Café naïve ÅNGSTRÖM coöperate e\u0301",
    "这是什么 color 色?",
    "日本語のテキスト",
    "zero\u200bwidth\ufeff and\u00a0no-break\u3000space",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "tabs\tand\nnew lines\r\n",
    "\x1f\x85 control \x00 \x7f characters \ufffd",
    "emoji 🐈‍⬛ and \U0001d518\U0001d52b\U0001d526",
    "İstanbul ﬁne ß ẞ",
    "punctuation!!!...(x)[y]{z}@#$%^&*~`|\\/",
    "word " * 40,
    "supercalifragilisticexpialidocious " * 5,
    "१२३ ١٢٣ 123",
]


@pytest.fixture(scope="session")
def bert(shared_data: Path) -> Path:
    return shared_data / "bert_vocab/vocab.txt"


@pytest.fixture(scope="session")
def real_sentences(shared_data: Path) -> list[str]:
    sentences = [
        json.loads(line)["sentence"] for line in (shared_data / "nlvr2/dev.json").open(encoding="utf-8")
    ]
    for name in ("gqa_testdev_balanced_questions", "vqa_v1_val2014_questions"):
        with gzip.open(shared_data / f"text/{name}.tsv.gz", "rt", encoding="utf-8") as file:
            sentences += [line.rstrip("\n").split("\t")[2] for line in file][:20000]
    with gzip.open(shared_data / "text/sugarcrepe_coco_val2017.json.gz", "rt", encoding="utf-8") as file:
        sentences += [caption for captions in json.load(file).values() for caption in captions]
    return sentences


def test_real_sentences_as_hugging_face(bert: Path, real_sentences: list[str]) -> None:
    encoder = TextEncoder(bert)
    assert (encoder.vocab_size, encoder.pad_id, encoder.unk_id) == (30522, 0, 100)
    assert (encoder.cls_id, encoder.sep_id, encoder.mask_id) == (101, 102, 103)
    sentences = real_sentences + TRICKY + [f"  {text}\t" for text in TRICKY]
    assert len(sentences) > 40000
    ids, mask = encoder.encode(sentences)
    wanted = BertTokenizer(vocab=str(bert))(
        [text.strip() for text in sentences],
        max_length=20,
        truncation=True,
        padding="max_length",
        return_tensors="np",
    )
    assert ids.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(ids, wanted["input_ids"])
    np.testing.assert_array_equal(mask, wanted["attention_mask"])


def test_ragged_is_the_padded_form_without_padding(bert: Path, real_sentences: list[str]) -> None:
    encoder = TextEncoder(bert, max_length=12)
    tokens = encoder.encode_ragged(real_sentences[:500])
    ids, mask = encoder.encode(real_sentences[:500])
    assert ids.shape == (500, 12)
    assert tokens.values.dtype == np.uint16
    np.testing.assert_array_equal(np.diff(tokens.offsets), mask.sum(1))
    np.testing.assert_array_equal(tokens.values, ids[mask == 1])
    assert encoder.encode([])[0].shape == (0, 12)


def test_encoder_pickles(tmp_path: Path) -> None:
    encoder = small_encoder(tmp_path)
    other = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(other.encode(["w1 w2 nothing"])[0], encoder.encode(["w1 w2 nothing"])[0])
    assert other.encode(["w1 nothing"])[0][0, :4].tolist() == [2, 6, 1, 3]


def refused(tmp_path: Path, content: bytes | None, *words: str) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        TextEncoder(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_bad_vocabularies(tmp_path: Path) -> None:
    special = "\n".join(SPECIAL_TOKENS)
    refused(tmp_path, None, "No such file")
    refused(tmp_path, b"", "empty")
    refused(tmp_path, b"\n", "empty")
    refused(tmp_path, b"[PAD]\n\xff\n", "UTF-8")
    refused(tmp_path, f"{special}\na\n\nb".encode(), "line 7", "blank")
    refused(tmp_path, f"{special}\na\nb\na".encode(), "line 8", "'a'", "line 6")
    refused(tmp_path, f"x\n{special}".encode(), "[PAD]", "line 2")
    for token in SPECIAL_TOKENS:
        refused(tmp_path, special.replace(token, "other").encode(), f"no {token}")
    with pytest.raises(InputError, match="cannot read"):
        TextEncoder(tmp_path)


def test_windows_line_ends_are_no_part_of_a_token(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIAL_TOKENS, "cat", ""]).encode())
    assert TextEncoder(path).encode(["cat"])[0][0, :3].tolist() == [2, 5, 3]


def test_vocabulary_of_the_wrong_size(tmp_path: Path) -> None:
    encoder = small_encoder(tmp_path)
    for fits in (100, 128, 227):
        encoder.check_size(fits)
    for rows in (99, 228, 30522):
        with pytest.raises(
            InputError, match=f"wrong size: 100 tokens, the model's embedding has {rows:,} rows"
        ):
            encoder.check_size(rows)


LEARN = """
import gzip, sys
from pathlib import Path
from lxmert_fast.data.text import learn_vocabulary
with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
    learn_vocabulary([line.split("\\t")[2] for line in file], Path(sys.argv[2]), 1500)
"""


def test_learning_is_the_same_in_every_process(shared_data: Path, tmp_path: Path) -> None:
    text = shared_data / "text/gqa_testdev_balanced_questions.tsv.gz"
    for number in range(3):
        command = [sys.executable, "-c", LEARN, str(text), str(tmp_path / f"{number}.txt")]
        subprocess.run(command, check=True, timeout=60)
    files = [(tmp_path / f"{number}.txt").read_bytes() for number in range(3)]
    assert files[0] == files[1] == files[2]
    tokens = files[0].decode().splitlines()
    assert tokens[:5] == list(SPECIAL_TOKENS)
    assert len(tokens) == len(set(tokens)) == 1500
    encoder = TextEncoder(tmp_path / "0.txt")
    ids, mask = encoder.encode(["Is the man to the left of the table wearing glasses?"])
    assert encoder.unk_id not in ids
    assert mask.sum() <= 16


def test_learning_needs_words_and_room(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no words"):
        learn_vocabulary(["", "  "], tmp_path / "v.txt", 100)
    with pytest.raises(InputError, match="10 tokens, wanted at least 12"):
        learn_vocabulary(["abcd"], tmp_path / "v.txt", 10)
    assert not (tmp_path / "v.txt").exists()
    learn_vocabulary(["abcd abcd"], tmp_path / "v.txt", 100)
    assert "abcd" in (tmp_path / "v.txt").read_text().splitlines()


def test_ragged_rows() -> None:
    rows = Ragged.from_lists([[1, 2, 3], [], [4]], np.int32)
    both = Ragged.concatenate([rows, Ragged.from_lists([[5, 6]], np.int32)])
    assert [row.tolist() for row in (both[i] for i in range(len(both)))] == [[1, 2, 3], [], [4], [5, 6]]
    taken = both.take(np.array([3, 1, 0, 3]))
    assert [taken[i].tolist() for i in range(4)] == [[5, 6], [], [1, 2, 3], [5, 6]]
    table, real = both.padded(np.array([0, 3, 1]), 2, fill=9)
    assert table.tolist() == [[1, 2], [5, 6], [9, 9]]
    assert real.tolist() == [[True, True], [True, True], [False, False]]
