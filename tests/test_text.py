"""Prompts: cleaned, cut into tokens, embedded once and kept; with a tiny tokenizer and encoder."""

import hashlib
import html
import json
import re
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from stp_jax import text
from stp_jax.errors import InputError
from stp_jax.models.text_encoder import TextEncoderConfig
from tests.stored_tensors import build, random_tensors

CONFIG = TextEncoderConfig(vocab=40, dim=12, attn_dim=32, heads=4, ffn_dim=28, layers=2, dtype="float32")
WORDS = ["<pad>", "</s>", "<unk>", "a", "dog", "runs", "über", "狗", "草地", "&", "fast"]


def write_tokenizer(path):
    """Words to tokens, with an end-of-text token as umT5's tokenizer has it."""
    tool = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tool.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tool.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path.parent.mkdir(parents=True, exist_ok=True)
    tool.save(str(path))
    return path


def write_text_encoder(folder):
    """A tiny umT5 under official names, with its tokenizer where the downloads have it."""
    write_tokenizer(folder / "google/umt5-xxl/tokenizer.json")
    path = folder / "models_t5_umt5-xxl-enc-bf16.safetensors"
    save_file(random_tensors("text_encoder", CONFIG, "official"), path)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_text_encoder(tmp_path_factory.mktemp("models"))


@pytest.fixture
def tokenizer(tmp_path):
    return write_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("a dog", "a dog"),
        ("  a \n\t dog  ", "a dog"),
        ("", ""),
        (" \n ", ""),
        ("a &amp; b", "a & b"),
        ("a &amp;amp; b", "a & b"),
        ("Ã¼ber den Rasen", "über den Rasen"),  # UTF-8 read as Latin-1
        ("“a dog’s life”", '"a dog\'s life"'),
        ("狗在草地上奔跑", "狗在草地上奔跑"),
        ("ﬁne", "fine"),
    ],
)
def test_prompts_are_cleaned(prompt, cleaned):
    assert text.clean(prompt) == cleaned
    if "&" not in prompt:
        assert text.clean(html.escape(prompt)) == cleaned


def test_tokens_are_padded_with_zeros_and_masked(tokenizer):
    ids, mask = text.tokenize(["a dog runs", "", "狗 über 草地"], tokenizer)
    assert ids.shape == mask.shape == (3, text.LENGTH) and ids.dtype == np.int32
    assert ids[0, :5].tolist() == [3, 4, 5, 1, 0] and mask[0].sum() == 4
    assert ids[1, :2].tolist() == [1, 0] and mask[1].sum() == 1
    assert ids[2, :4].tolist() == [7, 6, 8, 1]


def test_a_long_prompt_is_cut_and_says_where(tokenizer, capsys):
    prompt = "a dog " * 300 + "fast"
    ids, mask = text.tokenize([prompt], tokenizer)
    assert mask.all() and ids[0, -1] == 1 and ids[0, 510] == 3  # 511 words and the end
    said = capsys.readouterr().err
    assert "has 602 tokens; only the first 512 are read" in said and "fast" not in said


def test_embeddings_are_those_of_the_encoder_with_zeros_behind(encoder, tmp_path):
    prompts = ["a dog runs", "", "狗"]
    found = text.embed(prompts, encoder, dtype="float32", cache=tmp_path)
    model = build("text_encoder", CONFIG, "official")
    ids, mask = text.tokenize(prompts, text.find_tokenizer(encoder))
    assert found.shape == (3, text.LENGTH, CONFIG.dim) and found.dtype == np.float32
    for row, length in enumerate([4, 1, 2]):
        alone = model(ids[row : row + 1, :length], mask[row : row + 1, :length])[0]
        np.testing.assert_allclose(found[row, :length], alone, atol=2e-5)
        assert not found[row, length:].any()


def test_a_prompt_is_embedded_once(encoder, tmp_path, monkeypatch, capsys):
    first = text.embed(["a dog", "a", "a dog"], encoder, dtype="float32", cache=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2 and np.array_equal(first[0], first[2])

    class Forbidden:
        def __init__(self, *args):
            raise AssertionError("the text encoder was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(text, "Encoder", Forbidden)
        again = text.embed(["  a   dog ", "a"], encoder, dtype="float32", cache=tmp_path)
        assert np.array_equal(again, first[:2])
        with pytest.raises(AssertionError, match="was loaded"):
            text.embed(["a dog"], encoder, dtype="bfloat16", cache=tmp_path)  # other numbers
    files[0].write_bytes(files[0].read_bytes()[:50])
    again = text.embed(["a dog", "a"], encoder, dtype="float32", cache=tmp_path)
    assert np.array_equal(again, first[:2]) and "is damaged" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == files


def test_a_cache_that_cannot_be_written_costs_time_alone(encoder, tmp_path, capsys):
    expected = text.embed(["a dog"], encoder, dtype="float32", cache=tmp_path / "cache")
    (tmp_path / "file").write_text("")
    for cache in ("/proc/nowhere", tmp_path / "file/cache"):
        np.testing.assert_array_equal(text.embed(["a dog"], encoder, dtype="float32", cache=cache), expected)
        assert "not kept for the next run" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    weights = write_text_encoder(tmp_path)
    tokenizer = next(tmp_path.rglob("tokenizer.json"))
    vocabulary = json.loads(tokenizer.read_text())
    changed = json.dumps(vocabulary).replace('"dog": ', '"dog": 9')
    assert changed != json.dumps(vocabulary)
    tokenizer.write_text(changed)
    with pytest.raises(InputError, match="does not belong to the text encoder"):
        text.embed(["a dog"], weights, cache=tmp_path / "cache")


def test_other_weights_are_not_answered_from_the_cache(tmp_path):
    one, other = (write_text_encoder(tmp_path / name) for name in ("one", "other"))
    tensors = random_tensors("text_encoder", CONFIG, "official")
    save_file({name: 2 * array for name, array in tensors.items()}, other)
    words = [text.embed(["a dog"], path, dtype="float32", cache=tmp_path / "c") for path in (one, other)]
    assert np.abs(words[0] - words[1]).max() > 0.1


def test_where_the_tokenizer_is_looked_for(tmp_path):
    weights = tmp_path / "pipeline/text_encoder/model.safetensors"
    weights.parent.mkdir(parents=True)
    with pytest.raises(InputError, match=r"tokenizer is missing. Put the tokenizer.json of google/umt5-xxl"):
        text.find_tokenizer(weights)
    beside = write_tokenizer(tmp_path / "pipeline/tokenizer/tokenizer.json")
    assert text.find_tokenizer(weights) == beside  # as diffusers arranges it
    assert text.find_tokenizer(weights.parent) == beside
    inside = write_tokenizer(weights.parent / "tokenizer.json")
    assert text.find_tokenizer(weights) == inside
    inside.write_text("{}")
    with pytest.raises(InputError, match="is not a tokenizer, or is damaged"):
        text.tokenize(["a"], inside)


def test_missing_packages_are_named(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(InputError, match=re.escape("pip install 'stp-jax[text]'")):
        text.find_tokenizer(encoder)


def test_command_writes_what_training_reads(encoder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "words.npz"
    words = ["--weights", str(encoder.parent), "--prompt", "a dog", "--prompt", "", "--out", str(out)]
    text.main(words)
    assert "2 embeddings of 512 x 12" in capsys.readouterr().out
    embeddings = text.read_embeddings(out, CONFIG.dim)
    assert embeddings.shape == (2, 512, 12) and not np.array_equal(embeddings[0], embeddings[1])
    with pytest.raises(InputError, match="the model takes"):
        text.read_embeddings(out, 4096)
    np.savez(tmp_path / "nan.npz", embeddings=np.full_like(embeddings, np.nan))
    with pytest.raises(InputError, match="not finite numbers"):
        text.read_embeddings(tmp_path / "nan.npz", CONFIG.dim)
    with pytest.raises(SystemExit):  # an existing file is kept
        text.main(words)
    assert "give a new file" in capsys.readouterr().err
    out.write_bytes(out.read_bytes()[:90])
    with pytest.raises(InputError, match="truncated"):
        text.read_embeddings(out, CONFIG.dim)
    np.savez(tmp_path / "other.npz", words=np.ones(3))
    with pytest.raises(InputError, match="holds no embeddings"):
        text.read_embeddings(tmp_path / "other.npz", CONFIG.dim)
    np.savez_compressed(tmp_path / "bomb.npz", embeddings=np.zeros((2, 512, 256), np.float32))
    with pytest.raises(InputError, match="too large"):  # the same form may hold terabytes
        text.read_embeddings(tmp_path / "bomb.npz", 256)
    with pytest.raises(InputError, match="no such file"):
        text.read_embeddings(tmp_path / "none.npz", CONFIG.dim)


def test_the_negative_prompt_is_the_one_the_weights_were_tuned_with():
    digest = hashlib.sha256(text.NEGATIVE_PROMPT.encode()).hexdigest()
    assert digest == "ce96e0324e4b54ce4b6e867f669ca520952e1a34cc116543516b1897f0d3c47e"
