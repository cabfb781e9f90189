"""Animation-time curves: presets, keyframes, files."""

import json

import numpy as np
import pytest

from stp_jax.controls.animation_time import (
    EVALUATION_MODES,
    PRESETS,
    curve,
    needs_rates,
)
from stp_jax.controls.times import Rates
from stp_jax.errors import InputError

F = 17


# Presets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 5, 17, 18, 81])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_stay_in_the_source(name, frames):
    times = curve(name, frames)
    assert times.shape == (frames,) and times.dtype == np.float32
    assert np.all((times >= 0) & (times <= frames - 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("reverse", [8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("bullet_time", [4] * 9),
        ("bullet_time:2.5", [2.5] * 9),
        ("bullet_time: 8", [8] * 9),
        ("freeze_start", [0] * 9),
        ("freeze_end", [8] * 9),
        ("slow_motion", [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]),
        ("fast_forward", [0, 2, 4, 6, 8, 8, 8, 8, 8]),
        ("zigzag", [0, 1, 2, 3, 4, 3, 2, 1, 0]),
        ("pingpong", [4, 5, 6, 7, 8, 7, 6, 5, 4]),
        ("ramp_then_freeze", [0, 1, 2, 3, 4, 4, 4, 4, 4]),
        ("freeze_middle", [0, 1, 2, 3, 4, 4, 4, 6, 8]),
        ("accelerate", [0, 0.125, 0.5, 1.125, 2, 3.125, 4.5, 6.125, 8]),
        ("decelerate", [0, 1.875, 3.5, 4.875, 6, 6.875, 7.5, 7.875, 8]),
    ],
)
def test_preset_of_nine_frames(name, expected):
    np.testing.assert_array_equal(curve(name, 9), expected)


def test_presets_mean_what_the_published_lists_of_81_frames_mean():
    """Ours pass fractions where those repeat a frame, and do not hold the turning point twice."""
    there = np.arange(41)
    np.testing.assert_array_equal(curve("zigzag", 81), [*there, *there[-2::-1]])
    np.testing.assert_array_equal(curve("ramp_then_freeze", 81), [*there, *[40] * 40])
    np.testing.assert_array_equal(np.ceil(curve("slow_motion", 81)), [0, *np.repeat(there[1:], 2)])
    np.testing.assert_array_equal(curve("bullet_time", 81), [40] * 81)
    assert np.abs(curve("pingpong", 81) - [*range(40, 81), *range(80, 40, -1)]).max() == 1


@pytest.mark.parametrize("frames", [17, 33])
@pytest.mark.parametrize("mode", EVALUATION_MODES)
def test_evaluation_modes_lie_on_half_frames(mode, frames):
    np.testing.assert_array_equal(curve(mode, frames) * 2 % 1, 0)


# Keyframes ------------------------------------------------------------------------------------------------


def test_keyframes_are_joined_by_lines():
    times = curve("0:0, 16:16, 24:16, 32:32", 33)
    np.testing.assert_array_equal(times, [*range(16), *[16] * 9, *range(18, 33, 2)])
    np.testing.assert_allclose(curve("0:0,8:1.5 , 16:16", F)[[4, 12]], [0.75, 8.75])


def test_values_are_held_before_the_first_and_after_the_last_keyframe():
    np.testing.assert_array_equal(curve("2:3, 4:5", 8), [3, 3, 3, 4, 5, 5, 5, 5])
    np.testing.assert_array_equal(curve("0:4", 6), [4] * 6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0:0, 8:8, 4:4", "out of order: frame 4 comes after frame 8"),
        ("0:0, 8:8, 8:4", "two keyframes for frame 8"),
        ("0:0, 16:16.5", "keyframe 16:16.5 is outside this video, frames 0 to 16"),
        ("0:-1, 16:16", "keyframe 0:-1 is outside"),
        ("0:-1", "keyframe 0:-1 is outside"),
        ("-4:0, 8:8", "keyframe -4:0 is outside"),
        ("0:0, 17:16", "keyframe 17:16 is outside"),
        ("0:0, 16:16, 24:16, 32:32", "keyframe 24:16 is outside .*scaled to it: '0:0, 8:8, 12:8, 16:16'"),
        ("0:0, 2", "'2' is not a keyframe"),
        ("0:0, 2:", "'2:' is not a keyframe"),
        ("0:0, 2:3:4", "'2:3:4' is not a keyframe"),
        ("0:0, 2.5:3", "'2.5:3' is not a keyframe"),
        ("0:0, two:3", "'two:3' is not a keyframe"),
        ("0:0, 2:nan", "'2:nan' is not a keyframe"),
        ("0:0, inf:2", "'inf:2' is not a keyframe"),
        ("0:0,, 2:2", "'' is not a keyframe"),
        (",", "'' is not a keyframe"),
        ("7", "'7' is not a keyframe"),
        ("", "is empty"),
        ("  ", "is empty"),
    ],
)
def test_bad_keyframes_are_refused(spec, message):
    with pytest.raises(InputError, match=message) as error:
        curve(spec, F)
    assert repr(spec) in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bullettime", "did you mean bullet_time"),
        ("Slow-Motion", "did you mean slow_motion"),
        ("xyzzy", "choose one of forward, reverse"),
        ("bullet_tme:3", "did you mean bullet_time"),
        ("bullet_time:x", "'x' is not a source frame counted from 0 to 16, seconds as 0.8s or per cent"),
        ("bullet_time:1:2", "only bullet_time, ramp, stutter, loop take a number, and one"),
        ("forward:3", "only bullet_time, ramp, stutter, loop take a number"),
        ("ramp:2", "'2' is not the slowest speed, from 0 to 1"),
        ("ramp:10%", "'10%' is not the slowest speed"),
        ("stutter:1", "'1' is not a number of frames, 2 or more"),
        ("loop:1.5", "'1.5' is not a number of times, 2 or more"),
        ("bullet_time:2s", "2 s cannot be counted in frames without a video; give frames or %"),
        ("bullet_time:16.5", "time 16.5 is outside the source, 0 to 16"),
        ("bullet_time:-1", "time -1 is outside"),
    ],
)
def test_bad_preset_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        curve(spec, F)


# Seconds and per cent -------------------------------------------------------------------------------------

# 17 frames that play at 8 per second, of a clip that has 16 frames in each of its seconds.
RATES = Rates(new=8.0, source=16.0)


@pytest.mark.parametrize(
    ("spec", "frames", "times"),
    [
        ("0s:0s, 1.5s:0.75s", [0, 12], [0, 12]),
        ("0%:0%, 50%:25%, 100%:100%", [0, 8, 16], [0, 4, 16]),
        ("0:0, 1s:50%, 100%:1s", [0, 8, 16], [0, 8, 16]),
        ("0.1s:0.5 s, 1s:0", [0.8, 8], [8, 0]),
        ("33%:0, 66%:16", [0.33 * 16, 0.66 * 16], [0, 16]),
        ("0s:0s, 2.125s:1.0625s", [0, 16], [0, 16]),  # the ends, where the last frame has been shown
    ],
)
def test_keyframes_in_seconds_and_per_cent(spec, frames, times):
    np.testing.assert_allclose(curve(spec, F, RATES), np.interp(np.arange(F), frames, times), atol=1e-5)


def test_keyframes_of_a_file_may_be_in_seconds(tmp_path):
    path = tmp_path / "clock.txt"
    path.write_text("0s:0s\n1.5s:0.75s\n")
    np.testing.assert_array_equal(curve(path, F, RATES), np.minimum(np.arange(F), 12))
    assert needs_rates(path) and needs_rates("0s:0") and needs_rates("bullet_time:0.5 s")
    assert not any(map(needs_rates, ("0%:0%, 8:8", "bullet_time:3", "freeze_start", "clock.npy"[:5])))


def test_presets_with_a_number():
    np.testing.assert_array_equal(curve("bullet_time:0.5s", F, RATES), [8] * F)
    np.testing.assert_array_equal(curve("bullet_time:25%", F), [4] * F)
    np.testing.assert_array_equal(curve("stutter", 9), [0, 0, 0, 0, 4, 4, 4, 4, 8])
    np.testing.assert_array_equal(curve("stutter:2", 5), [0, 0, 2, 2, 4])
    np.testing.assert_array_equal(curve("loop", 9), [0, 1, 2, 3, 4, 0, 1, 2, 3])
    np.testing.assert_array_equal(curve("loop:3", 9), [0, 1, 2] * 3)


@pytest.mark.parametrize("slowest", [0.0, 0.25, 1.0])
def test_a_ramp_is_slowest_in_the_middle(slowest):
    times = curve(f"ramp:{slowest}", 1001).astype(np.float64)
    speed = np.diff(times)
    place = (np.arange(1000) + 0.5) / 1000
    np.testing.assert_allclose(speed, 1 + (1 - slowest) * np.cos(2 * np.pi * place), atol=2e-4)
    assert times[0] == 0 and times[-1] == 1000
    np.testing.assert_array_equal(curve("ramp", F), curve("ramp:0.25", F))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0s:0s, 1s:1s, 0.5s:0s", "out of order: 0.5 s comes after 1 s"),
        ("0:0, 50%:3, 1s:4", "two keyframes for 1 s"),
        (
            "0s:0s, 2.2s:1s",
            "keyframe 2.2s:1s is outside .*, frames 0 to 16, 0 to 2.125 s; its source",
        ),
        ("0s:0s, 2s:1.2s", "keyframe 2s:1.2s is outside this video, .* clip 0 to 1 s"),
        ("0%:0%, 101%:100%", "keyframe 101%:100% is outside"),
        ("0%:-1%", "keyframe 0%:-1% is outside"),
        ("0m:0m", "'0m:0m' is not a keyframe"),
        ("0s:1e308s, 1s:1s", "is outside"),
    ],
)
def test_bad_keyframes_in_seconds_and_per_cent(spec, message):
    with pytest.raises(InputError, match=message):
        curve(spec, F, RATES)


# Files ----------------------------------------------------------------------------------------------------

VALUES = np.minimum(np.arange(F) * 0.75, 10)


def write(path, values):
    values = np.asarray(values)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".json":
        path.write_text(json.dumps(values.tolist()))
    else:
        path.write_text(({".txt": "\n", ".csv": ", "}[path.suffix]).join(map(str, values)) + "\n")
    return path


FILES = ("a.npy", "a.json", "a.txt", "a.csv")


@pytest.mark.parametrize("name", FILES)
def test_files_hold_a_value_for_each_frame(tmp_path, name):
    path = write(tmp_path / name, VALUES)
    np.testing.assert_array_equal(curve(path, F), VALUES.astype(np.float32))
    np.testing.assert_array_equal(curve(str(path), F), VALUES.astype(np.float32))


def test_json_may_name_its_list(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"animation_time": VALUES.tolist()}))
    np.testing.assert_array_equal(curve(path, F), VALUES.astype(np.float32))


@pytest.mark.parametrize("text", ["0:0, 8:8, 16:0", "0: 0\n8: 8\r\n\n16:0\n", "\ufeff0:0,\n8:8,\n16:0,\n"])
def test_text_files_may_hold_keyframes(tmp_path, text):
    path = tmp_path / "keys.txt"
    path.write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(curve(path, F), curve("zigzag", F))


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_by_name(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=f"{name}: no such file"):
        curve(path, F)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=f"{name}: the file is empty"):
        curve(path, F)
    for length in (F - 1, F + 1):
        with pytest.raises(
            InputError, match=f"{name}: {length} animation times, but the video has {F} frames"
        ):
            curve(write(path, np.zeros(length)), F)
    with pytest.raises(InputError, match=f"{name}: frame 3: time 16.5 is outside"):
        curve(write(path, [0, 1, 2, 16.5, *range(4, F)]), F)
    with pytest.raises(InputError, match=f"{name}: .*nan"):
        curve(write(path, [np.nan] * F), F)
    path.write_bytes(b"\xff\xfe\x00\x80binary")
    with pytest.raises(InputError, match=name):
        curve(path, F)
    if path.suffix in (".npy", ".json"):
        whole = write(path, VALUES).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=f"{name}: .*truncated"):
            curve(path, F)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "0, 1, two", "frame 2: 'two' is not a number"),
        ("a.csv", "frame,animation_time\n0,0", "'frame' is not a number"),
        ("a.txt", " \n ", "expected a list"),
        ("a.txt", "0:0\n4:4\n2:2\n", "a.txt: keyframes out of order"),
        ("a.json", "{}", "expected a list"),
        ("a.json", "[[0, 0], [8, 8]]", r"frame 0: expected a number, found shape \[2\]"),
        ("a.json", '["0", "1"]', "frame 0: expected a number"),
        ("a.dat", "0 1 2", "a.dat: files of this type are not read; expected .npy"),
    ],
)
def test_other_contents_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        curve(tmp_path / name, F)


def test_clocks_of_megabytes_are_refused_at_once(tmp_path):
    path = tmp_path / "clock.csv"
    path.write_text("0, " * 3_500_000)
    with pytest.raises(InputError, match="clock.csv: 10,500,000 bytes are too many"):
        curve(path, F)
    keys = ", ".join(f"{i}:0" for i in range(200_000))
    with pytest.raises(InputError, match="200,000 keyframes are too many") as error:
        curve(keys, F)
    assert len(str(error.value)) < 300
    path.write_text(",".join(f"{i}:0" for i in range(19_000)))  # in no more than linear time
    assert len(curve(path, 19_000)) == 19_000
    with pytest.raises(InputError, match="keyframe 17:0 is outside this video, frames 0 to 16$"):
        curve(path, F)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bullet_time:2.5m", "'2.5m' is not a source frame counted from 0 to 16, seconds as 0.8s"),
        ("freeze", "did you mean bullet_time"),
        ("boomerang", "did you mean zigzag"),
        ("nofile.txt", "nofile.txt: no such file"),
        ("clock.xlsx", "clock.xlsx: no such file"),
        ("https://example.org/clock.csv", "is an address.*download it first"),
        ("0:0, 1e300:1", "keyframe 1e300:1 is outside"),
    ],
)
def test_what_was_meant_is_said(spec, message):
    with pytest.raises(InputError, match=message):
        curve(spec, F)
