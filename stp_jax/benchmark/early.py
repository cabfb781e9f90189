"""What a command does before it imports the models; a process of its own that is measured does the same."""

from __future__ import annotations

import gc


def begin_start() -> None:
    """Begins to set up the devices before the models are imported, as `stp_jax.rerender.runs.load_model`.

    Garbage is not looked for until `measure_start` begins, as under `stp_jax.errors.importing`.
    """
    gc.disable()
    from stp_jax.devices.hardware import set_up_devices

    set_up_devices()
