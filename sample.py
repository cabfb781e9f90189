"""Re-renders a video with a new camera and a new animation time.

    python sample.py
    python sample.py --video clip.mp4 --camera orbit_left --animation_time "0:0, 8:8, 12:8, 16:16"
    python sample.py --weights models --video clip.mp4 --prompt "a dog runs over a meadow"
    python sample.py --video clip.mp4 --camera path.json --dry_run
    python sample.py --keyframes examples/bullet_time.json
    python sample.py --jobs jobs.jsonl

The first line takes the bundled clip and model, the third one a folder of official weights. Results go to
a new folder: the video, the same beside the source, a contact sheet, a plot of the camera path and the
animation time, the camera path as files, and settings.json with everything needed to repeat the run. Nothing
is ever overwritten.
--jobs makes many, with a line of JSON for each, and goes on where it was stopped.
--dry_run shows how files are read and what would be made; --list every camera move and animation time.
"""

from __future__ import annotations

import signal
import sys
import time

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):  # these take a second
    from stp_jax.rerender import jobs, long_runs, results, runs
    from stp_jax.rerender.estimated_cameras import is_asked
    from stp_jax.rerender.flags import explain_choices, next_steps, parse_flags
    from stp_jax.rerender.takes import refuse_idle_flags


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    flags = parse_flags(words, description=__doc__)
    if flags.list:
        print(explain_choices())
        return
    if flags.jobs:
        jobs.run(flags, words)
        return
    started = time.monotonic()
    notes, model_takes = runs.notes_of(flags)
    refuse_idle_flags(flags, model_takes, notes)
    runs.set_defaults(flags, model_takes)
    goes_on = long_runs.going_on(flags, notes)
    names = [*runs.names(flags), *["dry_run"] * flags.dry_run]
    with results.result_folder(flags.out, *names, goes_on=goes_on) as folder:
        if is_asked(flags.source_cameras):
            print("Estimating how the clip was filmed, which takes a few seconds a frame.", flush=True)
        plan = runs.plan(flags, notes, model_takes)
        print(plan.summary)
        if flags.dry_run:
            runs.check_model(flags, notes)
            results.write_plan(folder, plan.request, plan.fps)
            print(f"Dry run: nothing is computed. In {folder}:\n{results.PLAN}")
            return
        make = runs.make if plan.windows is None else long_runs.make
        model = runs.load_model(flags, notes, deep=runs.is_deep(flags))
        make(folder, model, plan, flags)
    print(f"Done in {time.monotonic() - started:.0f} s. In {folder}:\n{runs.written(flags, notes)}")
    print(next_steps(notes.frames))


def interrupt(*_) -> None:
    """Ends the run, and tries again after a while: in a callback of a library an interrupt is lost."""
    signal.setitimer(signal.ITIMER_REAL, 2)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
