"""Embeddings of captions: written once, without padding, and drawn for each example by its place alone."""

import json
import pickle
from collections import Counter

import numpy as np
import pytest
import stored
import synthetic
from test_mixture import hashes

from input_pipeline import pipeline
from input_pipeline.caption_embeddings import (
    CaptionEmbeddings,
    Draw,
    Part,
    covered,
    data_file,
    mark_covered,
)
from input_pipeline.config import default_config
from input_pipeline.datasets import records
from input_pipeline.datasets.reading import list_data_sets, open_records
from input_pipeline.latents import LatentCache
from stp_jax.controls.view import View
from stp_jax.errors import InputError

META = {"dim": 3, "tokens": 6, "encoder": {"title": "a test"}}
TEXTS = ["", "a dog runs", "two dogs", "狗 über", "a cat"]


def embedding(number):
    """[number + 1, 3]: a caption of its own length; its first number says which."""
    return np.full((number + 1, 3), [number, 0.5, -2], np.float32)


def write(path, texts=TEXTS, shard=(0, 1)):
    part = Part(path, shard, META)
    for text in texts:
        part.add(text, embedding(TEXTS.index(text)))
    return part


def numbers(batch):
    """Which captions the examples of a batch have; -1: none."""
    return np.where(batch["has_caption"], batch["text"][:, 0, 0].astype(int), -1)


def test_only_the_tokens_of_captions_are_kept_and_batches_are_padded(tmp_path):
    write(tmp_path)
    found = CaptionEmbeddings.open(tmp_path)
    assert len(found) == 5 and (found.tokens, found.dim) == (6, 3) and "a dog" not in found
    assert data_file(tmp_path / "part_0_of_1.jsonl").stat().st_size == 2 * 3 * (1 + 2 + 3 + 4 + 5)
    rows = np.array([found.row("狗 über"), -1, found.row("")])
    for copy in (found, pickle.loads(pickle.dumps(found))):
        batch = copy.batch(rows)
        assert batch["text"].shape == (3, 6, 3) and batch["text"].dtype == np.float16
        assert batch["has_caption"].tolist() == [True, False, True]
        for place, number in ((0, 3), (2, 0)):
            np.testing.assert_array_equal(batch["text"][place, : number + 1], embedding(number))
            assert not batch["text"][place, number + 1 :].any()
        assert not batch["text"][1].any()
    with pytest.raises(InputError, match="no embedding of 'a bird'; python -m stp_jax.embed_captions"):
        found.row("a bird")


def test_an_interruption_loses_the_caption_that_was_being_written_alone(tmp_path):
    write(tmp_path, TEXTS[:3])
    index = tmp_path / "part_0_of_1.jsonl"
    whole = index.read_bytes(), data_file(index).read_bytes()
    line = whole[0].splitlines(keepends=True)[-1]
    for end in (line[:20], b""):  # within its line, and before it
        index.write_bytes(whole[0].removesuffix(line) + end)
        data_file(index).write_bytes(whole[1][:-4] if not end else whole[1])
        assert len(CaptionEmbeddings.open(tmp_path)) == 2
        write(tmp_path, TEXTS[2:3])
        assert (index.read_bytes(), data_file(index).read_bytes()) == whole


def test_parts_are_one_and_what_two_have_counts_once(tmp_path):
    write(tmp_path, TEXTS[:3], (0, 2))
    write(tmp_path, ["", "a cat", "two dogs"], (1, 2))
    found = CaptionEmbeddings.open(tmp_path)
    assert len(found) == 4
    for text in ("", "a dog runs", "two dogs", "a cat"):
        np.testing.assert_array_equal(found.embedding(found.row(text)), embedding(TEXTS.index(text)))


def test_damage_and_other_encoders_are_found(tmp_path):
    write(tmp_path)
    index = tmp_path / "part_0_of_1.jsonl"
    data, lines = data_file(index).read_bytes(), index.read_text()
    data_file(index).write_bytes(data[:14] + b"\x00\x01" + data[16:])
    found = CaptionEmbeddings.open(tmp_path)
    assert [found.damaged(row) for row in range(5)] == [False, True, False, False, False]
    found.batch(np.array([0]))
    with pytest.raises(InputError, match="float16: damaged"):
        found.batch(np.array([0, 1]))
    data_file(index).write_bytes(data[:-2])
    with pytest.raises(InputError, match="float16: truncated"):
        CaptionEmbeddings.open(tmp_path)
    data_file(index).write_bytes(data)
    for old, new in (("a dog", "a dig"), ('"tokens": 2', '"tokens": 3'), ('"tokens": 2', '"tokens": -2')):
        index.write_text(lines.replace(old, new))
        with pytest.raises(InputError, match="damaged"):
            CaptionEmbeddings.open(tmp_path)
    index.write_text(lines)
    with pytest.raises(InputError, match=r"begun with another text encoder \(encoder\)"):
        Part(tmp_path, (0, 1), META | {"encoder": {"title": "another"}})
    with pytest.raises(InputError, match="cannot hold"):
        Part(tmp_path, (0, 1), META).add("loud", np.full((1, 3), 7e4))
    (tmp_path / "meta.json").write_text("{}")
    with pytest.raises(InputError, match="is not of embeddings"):
        CaptionEmbeddings.open(tmp_path)
    with pytest.raises(InputError, match="no embeddings there"):
        CaptionEmbeddings.open(tmp_path / "nowhere")


def test_captions_are_drawn_evenly_and_dropped_at_the_rate(tmp_path):
    write(tmp_path)
    draw = Draw(CaptionEmbeddings.open(tmp_path), 0.25)
    rng = np.random.default_rng(0)
    found = Counter(int(draw(rng, TEXTS[1:4])) for _ in range(6000))
    assert set(found) == {-1, 1, 2, 3}
    for row, count in found.items():  # each of four has a quarter; sigma is 34
        assert abs(count - 1500) < 150, row
    assert {int(draw(rng, [])) for _ in range(20)} == {-1}


# Batches -------------------------------------------------------------------------------------------------

CAPTIONS = [["a dog runs", "two dogs"], [], ["a cat"]]  # of three scenes


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    parent = tmp_path_factory.mktemp("captions")
    folders = []
    for index, captions in enumerate(CAPTIONS):
        synthetic.write_scene(parent / "scenes", f"s{index}", index, cameras=2, times=stored.TIMES)
        video = (parent / "scenes" / f"s{index}" / "videos" / "camera_000.mp4").read_bytes()
        record = stored.record(video, captions=captions)
        folders.append(stored.write(parent / "records" / f"s{index}", record))
    records.build(stored.Stored, parent / "built", {"train": folders}, records.Options(workers=1))
    write(parent / "captions")
    mark_covered(parent / "captions", identity(parent), (0, 1), "built", 3)
    return parent


def identity(parent):
    return open_records(parent / "built", "stored", "train").identity


def config_of(parent, **changes):
    config = default_config()
    config.update(kind="stored", path=str(parent / "built"), captions=str(parent / "captions"))
    config.update(frames=5, height=8, width=16, pairs_per_scene=8, caption_dropout=0.25)
    config.update(changes)
    return config


def read(config, count, **options):
    iterator = iter(pipeline.make_dataset(config, split="train", seed=3, **{"batch_size": 4} | options))
    try:
        return [next(iterator) for _ in range(count)]
    finally:
        iterator.close()


def test_examples_have_a_caption_of_their_scene_and_nothing_else_changes(built):
    batches = read(config_of(built), 24)
    scenes = np.concatenate([synthetic.read_colour(b["source_video"])[:, 0, 0] for b in batches])
    captions = np.concatenate([numbers(batch) for batch in batches])
    allowed = {0: {1, 2, -1}, 1: {-1}, 2: {4, -1}}
    for scene, wanted in allowed.items():
        assert set(captions[scenes == scene]) == wanted
    dropped = (captions == -1)[scenes != 1]
    assert 0.08 < dropped.mean() < 0.45  # of 64, a quarter is meant: three sigma
    always = read(config_of(built, caption_dropout=0.0), 24)
    assert (np.concatenate([numbers(b) for b in always])[scenes != 1] > 0).all()
    plain = read(config_of(built, caption_dropout=0.0, captions=""), 24)
    assert "text" not in plain[0]
    without = [{k: v for k, v in b.items() if k not in ("text", "has_caption")} for b in batches]
    assert hashes(without) == hashes(plain)


def test_captions_are_the_same_for_any_hosts_and_after_a_restart(built):
    expected = hashes(read(config_of(built), 6))
    hosts = [read(config_of(built), 4, first_example=8, rows=rows) for rows in ([0, 3], [1, 2])]
    found = []
    for one, other in zip(*hosts, strict=True):
        (a, d), (b, c) = hashes([one]), hashes([other])
        found += [a, b, c, d]
    assert found == expected[8:]


def test_data_whose_captions_are_not_embedded_are_refused(built, tmp_path):
    write(tmp_path / "fewer")
    with pytest.raises(InputError, match="lacks those of .*built, stored, train; add them with python -m"):
        read(config_of(built, captions=str(tmp_path / "fewer")), 1)
    mark_covered(tmp_path / "fewer", identity(built), (1, 2), "half", 0)
    assert not covered(tmp_path / "fewer")
    mark_covered(tmp_path / "fewer", identity(built), (0, 2), "the other", 0)
    assert covered(tmp_path / "fewer") == {identity(built)}
    config = config_of(built, captions=str(tmp_path / "fewer"))
    with pytest.raises(InputError, match="no scene of .*built has a caption"):
        pipeline.check_captions(config, "train")
    other = dict(kind="stored", path=str(built / "built"))
    config.update(path="", mixture={"one": other, "two": other | {"path": str(built / "other")}})
    with pytest.raises(InputError, match="other: no such folder"):
        pipeline.check_captions(config, "train")
    for captions in ("", str(built / "captions")):
        pipeline.check_captions(config_of(built, captions=captions), "train")
    with pytest.raises(InputError, match="caption_dropout = 2.0: give 0 to 1"):
        read(config_of(built, caption_dropout=2.0), 1)
    with pytest.raises(InputError, match="caption_dropout = 0.25: it needs data.captions"):
        read(config_of(built, captions=""), 1)
    assert [(kind, splits) for _, kind, splits in list_data_sets(built / "built")] == [("stored", ["train"])]


def test_clips_for_a_latent_cache_carry_the_captions_of_their_scene(built):
    config = config_of(built, captions="", caption_dropout=0.0, rules="synchronised")
    rows = list(
        pipeline.make_clips(config, split="train", seed=0, clips=2, clips_per_path=1, rows=[0, 1, 2, 5])
    )
    assert [list(clips["captions"]) for clips in rows] == [*CAPTIONS, CAPTIONS[2]]


@pytest.mark.parametrize("windows", [1, 2])
def test_examples_of_a_latent_cache_have_captions_of_their_targets_scene(built, tmp_path, windows):
    """Two caches in a mixture, one of them without any; with windows all batches have a memory."""
    shape = dict(clips=4, frames=5, latent_shape=(2, 2, 2, 1), clips_per_path=2, windows=windows, meta={})
    for name, captions in (("some", CAPTIONS), ("none", [()] * 3)):
        cache = LatentCache.create(tmp_path / name / "train", scenes=3, **shape)
        for scene in range(3):
            view = View(np.tile(np.eye(4), (4, 5, 1, 1)), np.ones((4, 5, 4)), np.zeros((4, 5)))
            shown = scene if name == "some" else 1
            cache.write(scene, np.full((4, 2, 2, 2, 1), shown), view, captions[scene])
    part = {name: dict(kind="latents", path=str(tmp_path / name)) for name in ("some", "none")}
    for mixture in ({}, part):
        config = config_of(built, kind="latents", path="" if mixture else part["some"]["path"])
        if windows > 1:
            config.update(memory_frames=1, memory_share=1.0, memory_path=part["some"]["path"])
        config.mixture = mixture
        pipeline.check_captions(config, "train")
        batches = read(config, 24)
        scenes = np.concatenate([b["target_latents"][:, 0, 0, 0, 0] for b in batches]).astype(int)
        captions = np.concatenate([numbers(b) for b in batches])
        for scene, wanted in {0: {1, 2, -1}, 1: {-1}, 2: {4, -1}}.items():
            assert set(captions[scenes == scene]) == wanted
    with pytest.raises(InputError, match="no scene of .*none has a caption"):
        pipeline.check_captions(config_of(built, kind="latents", path=part["none"]["path"]), "train")
    lines = (built / "captions" / "part_0_of_1.jsonl").read_text().splitlines()[:2]
    write(tmp_path / "fewer", [json.loads(line)["text"] for line in lines])
    with pytest.raises(InputError, match="2 captions of latent cache .* are not embedded, such as 'a cat'"):
        read(config_of(built, kind="latents", path=part["some"]["path"], captions=str(tmp_path / "fewer")), 1)
