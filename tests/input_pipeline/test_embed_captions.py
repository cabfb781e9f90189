"""`python -m stp_jax.embed_captions`: each caption of several data sets once, by a tiny text encoder."""

import numpy as np
import pytest
import stored
import synthetic
from safetensors.numpy import save_file

from input_pipeline.caption_embeddings import CaptionEmbeddings
from input_pipeline.datasets import records
from input_pipeline.datasets.reading import open_records
from input_pipeline.latents import LatentCache
from stp_jax import embed_captions, text
from stp_jax.controls.view import View
from stp_jax.encode_dataset import verify
from tests.stored_tensors import random_tensors
from tests.test_text import CONFIG, write_text_encoder

CAPTIONS = [["a dog runs", "狗"], [], ["a dog", "a dog runs"]]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_text_encoder(folder / "models")
    scene = synthetic.write_scene(folder, "scene", 0, cameras=2, times=stored.TIMES)
    video = (scene / "videos" / "camera_000.mp4").read_bytes()
    folders = [
        stored.write(folder / "records" / f"s{i}", stored.record(video, captions=captions))
        for i, captions in enumerate(CAPTIONS)
    ]
    splits = {"train": folders[:2], "test": folders[2:]}
    records.build(stored.Stored, folder / "built", splits, records.Options(workers=1))
    cache = LatentCache.create(
        folder / "latents" / "train",
        **dict(scenes=1, clips=2, frames=5, latent_shape=(2, 2, 2, 1), clips_per_path=1, meta={}),
    )
    view = View(np.tile(np.eye(4), (2, 5, 1, 1)), np.ones((2, 5, 4)), np.zeros((2, 5)))
    cache.write(0, np.zeros((2, 2, 2, 2, 1)), view, ["a dog", "über"])
    return folder


def run(files, out, *more, data=("built", "latents"), weights="models"):
    paths = [str(files / name) for name in data]
    embed_captions.main(["--weights", str(files / weights), "--data", *paths, "--out", str(out), *more])
    return CaptionEmbeddings.open(out)


def test_every_caption_is_embedded_once_as_a_prompt_is(files, tmp_path, capsys, monkeypatch):
    found = run(files, tmp_path / "out")
    said = capsys.readouterr().out
    assert "2 captions of 2 scenes" in said and "5 new embeddings, 5 in all" in said
    texts = ["a dog runs", "狗", "a dog", "über", ""]
    expected = text.embed(texts, files / "models", cache=tmp_path / "cache")
    for row, caption in zip(expected, texts, strict=True):
        embedding = found.embedding(found.row(caption))
        assert not row[len(embedding) :].any()
        np.testing.assert_allclose(embedding, row[: len(embedding)], atol=0.02)  # of bfloat16
    for split in ("train", "test"):
        assert found.covers(open_records(files / "built", "stored", split).identity)

    def forbidden(*args):
        raise AssertionError("the text encoder was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(embed_captions, "Encoder", forbidden)
        assert len(run(files, tmp_path / "out")) == 5
    assert "0 new embeddings, 5 in all" in capsys.readouterr().out
    verify.main([str(tmp_path / "out"), str(files / "latents")])
    assert capsys.readouterr().out.count(": whole") == 2


def test_parts_of_the_work_are_one_folder(files, tmp_path):
    found = run(files, tmp_path / "out", "--shard", "0/2", data=["built"])
    records = open_records(files / "built", "stored", "train")
    assert not found.covers(records.identity)
    found = run(files, tmp_path / "out", "--shard", "1/2", data=["built"])
    assert found.covers(records.identity)
    assert all(caption in found for captions in CAPTIONS for caption in captions)


def test_mistakes_are_one_line(files, tmp_path, capsys):
    run(files, tmp_path / "out", data=["latents"])
    other = write_text_encoder(tmp_path / "other")
    tensors = random_tensors("text_encoder", CONFIG, "official")
    rng = np.random.default_rng(9)
    save_file(
        {name: rng.permutation(array.ravel()).reshape(array.shape) for name, array in tensors.items()}, other
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    capsys.readouterr()
    for out, more, data, weights, message in (
        ("out", [], ["built"], tmp_path / "other", "another text encoder than the one that made"),
        ("new", [], ["records"], "models", "records: holds no data set and no latent cache"),
        ("new", [], ["nowhere"], "models", "nowhere: holds no data set"),
        ("full", [], ["built"], "models", "full: the folder is not empty"),
        ("new", ["--shard", "2/2"], ["built"], "models", "'2/2' is no part I/N"),
        ("new", [], ["built"], "records", "holds no weights of a text encoder"),
    ):
        with pytest.raises(SystemExit):
            run(files, tmp_path / out, *more, data=data, weights=weights)
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and message in error
        assert out != "new" or not (tmp_path / "new").exists()
