"""sample.py: a mistake is one line and leaves nothing behind."""

import pytest

from tests.tiny_model import edit_index, write_tiny_model

GOOD = "--weights {f}/weights --video {f}/clip.mp4"
BAD = {
    # the speed
    "--speed quick": "invalid choice: 'quick'",
    "--guidance_interval 0.5 0.4": "--guidance_interval 0.5 0.4: give the lowest and the highest noise level",
    "--guidance_interval 0.2 1.5": "'1.5' is not a number from 0 to 1",
    "--guidance_interval 0.2 0.9": "--guidance_interval has no effect, as nothing is guided",
    "--cache_threshold -0.1": "'-0.1' is not a number from 0 to 100",
    # the video
    "--video {f}/nowhere.mp4": "nowhere.mp4: there is no such file",
    "--video {f}/full": "full is a folder without pictures: give a video, or a folder of .png",
    "--video ''": "--video is empty",  # not the bundled clip
    "--video {f}/empty.mp4": "empty.mp4 is empty",
    "--video {f}/text.mp4": "text.mp4 is not a video",
    "--video {f}/truncated.mp4": "truncated.mp4 is",
    "--video {f}/one_frame.mp4": "one_frame.mp4 has one frame",
    "--video {f}/clip.mp4 --start 1.5 --duration 2": "1.5 to 3.5 s must lie within",
    "--video {f}/clip.mp4 --start 7": "must lie within its 0 to 1.9",
    # cameras
    "--camera orbit_lefft": "unknown camera preset 'orbit_lefft': did you mean orbit_left",
    "--camera orbit_left:far": "'far' is not a number",
    "--camera {f}/missing.json": "missing.json: no such file",
    "--camera {f}/shapes.json": "shapes.json: frame 0: expected 4 x 4",
    "--camera {f}/nan.json": "nan.json: frame 3: the pose has NaN",
    "--camera {f}/left_handed.json": "left_handed.json: frame 2: the rotation is left-handed",
    "--camera {f}/sheared.json": "sheared.json: frame 1: the rotation is not orthonormal",
    "--camera {f}/few.json": "few.json: one pose is too few",
    "--keyframes {f}/keys0.json": "keys0.json: keyframes[0]: time 9 is outside the new video, frames 0 to 4",
    "--keyframes {f}/keys1.json": "keyframes[0]: unknown field 'fv': did you mean fov?",
    "--keyframes {f}/keys0.json --camera zoom_in": "it changes the lens, and so does",
    "--key_poses": "--key_poses: no camera file has fewer poses than frames",
    "--camera {f}/broken.json": "broken.json: broken or truncated JSON",
    "--source_cameras {f}/few.json": "few.json: one pose is too few",
    "--source_cameras {f}/nan.json": "nan.json: frame 3",
    "--source_cameras orbit_left": "orbit_left: no such file",
    "--source_cameras ''": "--source_cameras is empty",
    "--camera nofile.txt": "nofile.txt: no such file",
    "--camera {f}/times.txt": 'times.txt: no camera path in it; expected "c2w"',
    "--camera https://example.org/path.json": "is an address, and files are read from this machine",
    "--camera circle": "unknown camera preset 'circle': did you mean orbit_left?",
    "--camera orbit_left:40deg": "'40deg' is not a number: write orbit_left:40, in degrees",
    "--camera orbit_left:1e30": "1e+30 degrees are too many; at most 3600",
    "--camera dolly_in:1e39": "camera 'dolly_in:1e39': frame 1: the pose has NaN, infinite or huge numbers",
    "--camera crane_up:1e300:1e300": "the pose has NaN, infinite or huge numbers",
    "--camera zoom_in:1e39": "a focal length of 1.07e+39 times the picture; at most 30",
    "--camera zoom_out:1e300": "the focal lengths must be positive",
    "--camera pan_left --distance 3": "--distance 3: the path of --camera pan_left does not depend on it",
    "--camera {f}/path.json --camera_axes blender": "argument --camera_axes: invalid choice: 'blender'",
    "--camera_axes opengl": "says how camera files are read, and none is given",
    # animation times
    "--animation_time bullet_tme": "unknown animation time preset 'bullet_tme': did you mean bullet_time",
    "--animation_time '0:0, 3:3, 2:1'": "keyframes out of order",
    "--animation_time '0:0, 16:16, 24:16, 32:32'": "outside this video, frames 0 to 4",
    "--animation_time '0:0, 4:-1'": "4:-1 is outside",
    "--animation_time '0:0, 4'": "'4' is not a keyframe",
    "--animation_time bullet_time:9": "time 9 is outside the source, 0 to 4",
    "--animation_time {f}/times.txt": "times.txt: frame 3: time 9 is outside",
    "--animation_time bullet_time:2.5s": "2.5 s is outside the source's clip, frames 0 to 4, 0 to",
    "--animation_time freeze": "unknown animation time preset 'freeze': did you mean bullet_time?",
    "--animation_time slowmo.txt": "slowmo.txt: no such file",
    "--animation_time http://example.org/a.csv": "is an address",
    # flags
    "--time bullet_time": "unknown flag 'time': did you mean animation_time?",
    "--cfg 3": "unknown flag 'cfg': did you mean guidance?",
    "--prompt dog": "takes no text; leave it out",
    "--tiled": "--tiled has no effect: pictures of 32 x 32 fit in one tile",
    "--camra orbit_left": "unknown flag 'camra': did you mean camera",
    "--cam orbit_left": "unknown flag 'cam'",
    "clip.mp4": "unexpected argument 'clip.mp4': a video is given as --video",
    "--fov wide": "argument --fov: 'wide' is not a number from 1 to 179",
    "--fov nan": "argument --fov",
    "--steps 0": "argument --steps: '0' is not a whole number from 1",
    "--steps 2.5": "argument --steps",
    "--seed -1": "argument --seed",
    "--fps 0": "argument --fps",
    "--scale 100": "argument --scale",
    "--distance 0": "argument --distance",
    "--camera": "argument --camera: expected one argument",
    # results
    "--out {f}/full": "full is not empty and nothing is overwritten",
    "--out {f}/a_file": "a_file cannot be written",
    "--out {f}/a_file/below": "a_file/below cannot be written",
    "--out ''": "--out is empty",
    "--out /proc/none": "/proc/none cannot be written",
    # weights
    "--weights {f}/full": "full holds no weights of a DiT",
    "--weights {f}/nowhere": "nowhere does not exist",
    "--lora {f}/nowhere:0.5": "nowhere: there is no such file",
    "--lora {f}/wide.safetensors:0": "a strength of 0: it has no effect",
    "--lora {f}/wide.safetensors": "q (9 x 48 instead of 48 x 48), .. It was made for another",
    "--lora {f}/path.json": "path.json is not a weights file",
    "--lora {f}/style_4step.safetensors {f}/style_4step.safetensors": "4step.safetensors is given twice",
}


def everything_in(folder):
    return {
        path: path.is_dir() or path.read_bytes() for path in folder.rglob("*") if "cache" not in path.parts
    }


@pytest.mark.parametrize("flags", BAD)
def test_mistakes_are_one_line_and_leave_no_trace(run, files, tmp_path, flags):
    before = everything_in(files)
    status, _, err = run(f"{GOOD} {flags}")
    assert status == 2
    assert err.startswith("error: ") and BAD[flags] in err and err.count("\n") <= 2
    assert everything_in(files) == before
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "outputs"] == []


def test_weights_of_another_config_leave_no_trace(run, tmp_path):
    folder = write_tiny_model(tmp_path / "other")
    edit_index(folder, "dit", config={"dim": 64})
    status, _, err = run(f"{GOOD} --weights {folder} --out mine")
    assert status == 2 and "its tensors are not those of the model" in err
    assert not (tmp_path / "mine").exists()
