"""Writes the example clip that `sample.py` takes by default: a held-out scene, seen by one camera of its rig.

    python -m input_pipeline.render.example --seed 1000118 --camera 8 --out stp_jax/assets

writes example.mp4, one frame for each source frame, example_cameras.json, whose camera stands still, and
example_depth.npz, by which the editor warps its pictures (docs/editor.md).
"""

from __future__ import annotations

import json
from pathlib import Path

from stp_jax.errors import InputError, exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import numpy as np

    from input_pipeline.render import layers
    from input_pipeline.render.grid import FPS, GridSettings, render_grid
    from input_pipeline.render.opengl import choose_backend
    from input_pipeline.render.views import SceneViews
    from stp_jax import media
    from stp_jax.command_line import Parser
    from stp_jax.files import replace_file


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = Parser("python -m input_pipeline.render.example", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="of the scene")
    parser.add_argument("--camera", type=int, default=8, help="on the rig (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="an existing folder")
    args = parser.parse_args(argv)
    settings = GridSettings()
    if not 0 <= args.camera < settings.cameras:
        raise InputError(f"--camera {args.camera}: the rig has cameras 0 to {settings.cameras - 1}.")
    if not args.out.is_dir() or args.seed < 0:
        given = f"--seed {args.seed} --out {args.out}"
        raise InputError(f"{given}: give a seed from 0 on, and a folder that exists.")
    choose_backend()
    pictures, data = render_grid(args.seed, settings)
    video, name = pictures[args.camera, ::2], f"camera_{args.camera:03d}"
    media.write_video(args.out / "example.mp4", video, FPS / 2, crf=8, pixel_format="yuv444p")
    c2w = np.linalg.inv(data["cameras"]["extrinsic"][name]).tolist()
    poses = {"c2w": [c2w] * len(video), "intrinsics": data["cameras"]["intrinsic"][name]}
    with replace_file(args.out / "example_cameras.json") as partial:
        partial.write_text(json.dumps(poses))
    with SceneViews(args.seed, settings) as scene:
        chosen = slice(args.camera, args.camera + 1)
        seen = [scene.at(scene.c2w[chosen], scene.intrinsics[chosen], float(t)) for t in range(len(video))]
    inverse = layers.to_code(np.stack([1 / one.depth[0] for one in seen]))
    with replace_file(args.out / "example_depth.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, inverse_depth=inverse, nearest=np.float64(layers.NEAREST))


if __name__ == "__main__":
    main()
