r"""What a training step of a small model costs, without its data, and in which kernels the time is spent.

    python benchmarks/step.py                                                # configs/demo.py:gpu on one GPU
    python benchmarks/step.py --profile 40 -- --config.model.dim=768 --config.model.layers=12
    python benchmarks/step.py --devices 4 -- --config.train.batch_size=256   # 64 pairs on each of four GPUs
    python benchmarks/step.py -- --config.memory=4 --config.data.memory_path=NONE   # with and without

Builds the train step that `train.py` would run, on random latents which are on the devices already; the
optimizer and the average are included. Whatever follows `--` are fields of the config. Prints the median of
five timings, TFLOP/s of the model's matrix products (no recomputation counted), the memory of the compiled
step, and with `--profile` the costliest kernels. benchmarks/training.py measures `train.py` itself, with its
data.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from stp_jax.errors import exit_on_input_error, starting

with starting(__name__ == "__main__"):
    import jax
    import numpy as np

    from stp_jax.benchmark.measure import costliest_kernels
    from stp_jax.command_line import Parser, count, number, read_config
    from stp_jax.devices.sharding import batch_sharding, make_mesh
    from stp_jax.training.dit_task import DiTTask
    from stp_jax.training.flow_map_task import dit_task
    from stp_jax.training.optimizer import make_optimizer
    from stp_jax.training.state import TEACHER, Average, init_state
    from stp_jax.training.step import make_train_step

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30


def random_batch(task: DiTTask, batch_size: int, mesh) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    batch = {
        name: rng.standard_normal((batch_size, *shape)).astype(dtype)
        for name, (shape, dtype) in task.example_shapes().items()
    }
    return jax.device_put(batch, batch_sharding(mesh))


def cases_of(batch: dict[str, jax.Array]) -> dict[str, list[dict[str, jax.Array]]]:
    """Batches that are trained on in turn, by what they are called. Those of a model with a memory have one
    or not."""
    without = {name: array for name, array in batch.items() if not name.startswith("memory_")}
    if len(without) == len(batch):
        return {"": [batch]}
    return {"with a memory": [batch], "without": [without], "in turn": [batch, without]}


def measure(config, devices: int, steps: int, profile: int, hlo: str | None) -> None:
    mesh = make_mesh(devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        task, optimizer = dit_task(config, load=False), make_optimizer(config.optimizer)
        average = Average(config.optimizer)
        state = average.place(init_state(task, optimizer, 0, mesh))
        parameters = sum(array.size for array in state.params.values())
        # A prompt and a teacher, where the model has them. There is no VAE, as the batch has latents.
        given = {name: task.frozen[name] for name in ("text", TEACHER) if name in task.frozen}
        frozen = jax.tree.map(lambda array: jax.numpy.zeros(array.shape, array.dtype), given)
        step_fn: Any = make_train_step(task, optimizer, config)
        started = time.perf_counter()
        for name, batches in cases_of(random_batch(task, config.train.batch_size, mesh)).items():
            compiled = [step_fn.lower(state._replace(ema={}), frozen, one, 0.0).compile() for one in batches]
            compile_seconds = time.perf_counter() - started
            if hlo:
                Path(hlo).write_text(compiled[0].as_text())

            def run(steps: int, compiled=compiled, batches=batches) -> float:
                """Seconds a step; as in training, the host does not wait for each."""
                nonlocal state
                begun = time.perf_counter()
                for number in range(steps):
                    which = number % len(batches)
                    stepped, metrics = compiled[which](state._replace(ema={}), frozen, batches[which], 0.0)
                    state = average.take(stepped._replace(ema=state.ema), number + 1)
                jax.block_until_ready((state, metrics))
                return (time.perf_counter() - begun) / steps

            run(4)
            seconds = statistics.median(run(steps) for _ in range(5))
            temporary = max(one.memory_analysis().temp_size_in_bytes for one in compiled) / GIB
            memory = "memory" in name
            flop = task.cost(memory=memory)[1] * config.train.batch_size / devices
            cells = (
                f"{config.model.dim} x {config.model.layers}, {parameters / 1e6:.1f} M parameters",
                f"{config.train.batch_size} pairs on {devices} x {jax.devices()[0].device_kind}",
                *([name] if name else []),
                f"{1e3 * seconds:.1f} ms",
                *([f"{flop / seconds / 1e12:.0f} TFLOP/s"] if len(batches) == 1 else [""]),
                f"{temporary:.1f} GiB",
                f"compiled in {compile_seconds:.0f} s",
            )
            print(f"| {' | '.join(cells)} |", flush=True)
            for kernel, spent in costliest_kernels(lambda: run(1), profile) if profile else []:
                print(f"  {1e3 * spent:9.3f} ms  {kernel[:150]}")
            started = time.perf_counter()


@exit_on_input_error
def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = Parser(prog="python benchmarks/step.py", description=__doc__)
    parser.add_argument("--config", default=f"{ROOT / 'configs/demo.py'}:gpu")
    parser.add_argument("--devices", type=count, default=1)
    parser.add_argument("--steps", type=count, default=10, help="timed together, five times; default 10")
    parser.add_argument("--profile", type=number(0, 10000, int), default=0, help="kernels to list")
    parser.add_argument("--hlo", help="write the compiled program's text to this file")
    given = parser.parse_args(arguments[:split])
    config = read_config(given.config, arguments[split + 1 :])
    measure(config, given.devices, given.steps, given.profile, given.hlo)


if __name__ == "__main__":
    main()
