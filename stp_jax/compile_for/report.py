"""The report on a compiled program."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass
class Compiled:
    """Figures of one compiled program, for each device; sizes in GiB."""

    topology: str
    mesh: dict[str, int]
    batch_size: int
    memory: float  # of the device
    floor_seconds: float  # of the step, if every operation ran at the device's peak
    state: float = 0.0  # parameters, state and batch
    peak: float = 0.0  # in use at most, these included
    # Of each kind: how many in a step, and GiB received by them.
    collectives: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    link_seconds: float = 0.0  # of what is received, if all links of the device brought it
    compile_seconds: float = 0.0
    over: float = 0.0  # by how much it does not fit
    average: float = 0.0  # the part of the state that is the average of the parameters

    def report(self, mfu: float) -> str:
        """The report to print; `mfu` is assumed for the estimate of the step's time."""
        devices = " x ".join(f"{axis} {size}" for axis, size in self.mesh.items() if size > 1) or "one device"
        lines = [f"{self.topology}, {devices}, batch {self.batch_size}"]
        if self.over:
            lines += [
                f"  does NOT fit: {self.over:.1f} GiB more than the {self.memory:.1f} GiB of a "
                f"device, {self.state:.1f} of them parameters, state and batch.",
                f"  {self.advice()}",
            ]
            return "\n".join(lines)
        lines.append(
            f"  memory of a device: at most {self.peak:.2f} of {self.memory:.0f} GiB, "
            f"{self.state:.2f} of them parameters, state and batch"
        )
        found = [f"{n} {kind} ({size:.2f} GiB)" for kind, (n, size) in self.collectives.items()]
        lines.append(f"  received in a step: {', '.join(found) or 'nothing'}")
        estimate = max(self.floor_seconds / mfu, self.link_seconds)
        lines.append(
            f"  step: {self.floor_seconds:.2f} s at the peak of the devices, {self.link_seconds:.2f} s of "
            f"their links meanwhile; {estimate:.2f} s at an assumed MFU of {mfu:.0%}"
        )
        lines.append(f"  compiled in {self.compile_seconds:.0f} s")
        return "\n".join(lines)

    def advice(self) -> str:
        """What would make it fit."""
        computing = self.memory + self.over - self.state
        savings = {
            "twice the devices, as sequence": (self.state + computing) / 2,
            "twice the devices, as fsdp": self.state / 2,
            "the average in the hosts' memory, as config.optimizer.ema_every=10": self.average,
        }
        enough = [f"{what} (saves {size:.1f})" for what, size in savings.items() if size > self.over]
        if enough:
            return f"What would make it fit, in GiB: {'; '.join(enough)}."
        times = 2 ** math.ceil(math.log2((self.memory + self.over) / self.memory))
        return f"It needs about {times} times the devices, as sequence."
