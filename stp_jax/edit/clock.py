"""The clock as a curve that is dragged: a drawing in SVG, with the source's pictures along it.

viser has no such control. The drawing's handlers, the only JavaScript of this package, move a point under the pointer,
and on release write the points into the page's text field of the clock, as a person would type them.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from stp_jax.errors import InputError

WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 44, 26  # margins around the curve
_PICTURES = 9  # along the curve
_SIDE = (WIDTH - _LEFT - _RIGHT) / _PICTURES
COMMIT = ";"  # at the end of the text field's value: it is taken at once

# Of the drawing, in its own units: the point that is dragged is `this.p`. On release the text of all points is
# written to the field whose value is that which was drawn; React listens to the field's `input` event.
_SCRIPT = {
    "onpointerdown": """
const c=event.target.closest('[data-key]'); if(!c) return;
this.p=c; this.setPointerCapture(event.pointerId); event.preventDefault();""",
    "onpointermove": """
if(!this.p) return;
const at=new DOMPoint(event.clientX,event.clientY).matrixTransform(this.getScreenCTM().inverse());
const d=this.dataset, last=+d.last, snap=v=>d.snap?Math.round(v):Math.round(v*100)/100;
const clip=v=>Math.min(Math.max(v,0),last);
const f=snap(clip((at.x-d.x0)/d.w*last)), t=snap(clip((+d.y0-at.y)/d.h*last));
this.p.dataset.text=f+':'+t;
this.p.setAttribute('cx',+d.x0+f/last*d.w); this.p.setAttribute('cy',d.y0-t/last*d.h);""",
    "onpointerup": """
if(!this.p) return;
this.p=null;
const text=[...this.querySelectorAll('[data-key]')].map(c=>c.dataset.text).join(', ');
if(text===this.dataset.text) return;
const field=[...document.querySelectorAll('input')].find(i=>i.value===this.dataset.text);
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype,'value').set.call(field,text+';');
field.dispatchEvent(new Event('input',{bubbles:true}));""",
}


def as_text(points: Sequence[tuple[float, float]]) -> str:
    """Points (frame, source frame) as `--animation_time` takes them."""
    return ", ".join(f"{frame:.6g}:{moment:.6g}" for frame, moment in points)


def read_points(text: str) -> list[tuple[float, float]] | None:
    """The points of a text of plain frames; None: it is something else, such as a preset."""
    points = []
    for pair in text.split(","):
        try:
            frame, moment = map(float, pair.split(":"))
        except ValueError:
            return None
        if not (np.isfinite(frame) and np.isfinite(moment)):
            raise InputError(f"clock {pair.strip()!r}: give frames, as 8:4.5")
        points.append((frame, moment))
    return points


def thumbnails(frames: np.ndarray, side: int = 48) -> list[str]:
    """JPEG pictures of a clip uint8 [F, H, W, 3] as addresses of data."""
    made = []
    for frame in frames:
        image = Image.fromarray(frame)
        image.thumbnail((side, side))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=70)
        made.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return made


def draw(
    curve: np.ndarray,
    points: Sequence[tuple[float, float]],
    pictures: Sequence[str],
    frame: int,
    *,
    snap: bool,
    selected: tuple[float, float] | None = None,
) -> str:
    """The drawing of a clock [F], as HTML.

    Args:
      points: of the keys of the clock: frame, source frame.
      pictures: of the source's frames, see `thumbnails`.
      frame: that is shown now.
      snap: points are dragged to whole frames.
      selected: the point of the keyframe whose fields are shown.
    """
    last = max(len(curve) - 1, 1)
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    bottom = HEIGHT - _BOTTOM

    def place(f: float, t: float) -> tuple[float, float]:
        return _LEFT + f / last * wide, bottom - t / last * high

    data = {"x0": _LEFT, "y0": bottom, "w": wide, "h": high, "last": last, "text": as_text(points)}
    attributes = "".join(f' data-{name}="{html.escape(str(value))}"' for name, value in data.items())
    attributes += ' data-snap="1"' if snap else ""
    handlers = "".join(f' {name}="{html.escape(" ".join(text.split()))}"' for name, text in _SCRIPT.items())
    line = " ".join("{:.1f},{:.1f}".format(*place(f, t)) for f, t in enumerate(curve))
    now = place(frame, float(curve[frame]))
    parts = [
        f'<svg class="stp-clock" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="clock"'
        f' style="width:100%;touch-action:none;font:10px sans-serif;user-select:none"{attributes}{handlers}>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{wide}" height="{high}" fill="#8881" stroke="#8886"/>',
        *_strip(curve, pictures),
        f'<line x1="{_LEFT}" y1="{bottom}" x2="{_LEFT + wide}" y2="{_TOP}" stroke="#888" stroke-dasharray="2 4"/>',
        f'<line x1="{now[0]:.1f}" y1="{_TOP}" x2="{now[0]:.1f}" y2="{bottom}" stroke="#2b8a3e"/>',
        f'<polyline points="{line}" fill="none" stroke="#d62728" stroke-width="2"/>',
        *_labels(last),
    ]
    for f, t in points:
        x, y = place(f, t)
        colour = "#f59f00" if selected is not None and abs(f - selected[0]) < 1e-6 else "#fff"
        parts.append(
            f'<circle data-key="1" data-text="{f:.6g}:{t:.6g}" cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}"'
            ' stroke="#d62728" stroke-width="2" style="cursor:grab"/>'
        )
    return "".join([*parts, "</svg>"])


def _strip(curve: np.ndarray, pictures: Sequence[str]) -> list[str]:
    """Pictures of the source above the curve, of the moment that each place of the new video shows."""
    made, last = [], max(len(curve) - 1, 1)
    for i in range(_PICTURES):
        shown = round(float(curve[round((i + 0.5) / _PICTURES * last)]))
        x = _LEFT + i * _SIDE
        made.append(
            f'<image href="{pictures[shown]}" x="{x:.1f}" y="4" width="{_SIDE - 1:.1f}" height="{_SIDE - 1:.1f}"'
            f' preserveAspectRatio="xMidYMid slice"><title>source frame {shown}</title></image>'
        )
    return made


def _labels(last: int) -> list[str]:
    """Numbers at the axes."""
    made = []
    for share in (0, 0.5, 1):
        value = f"{share * last:g}"
        x, y = _LEFT + share * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)
        anchor = ("start", "middle", "end")[round(share * 2)]
        made.append(
            f'<text x="{x:.0f}" y="{HEIGHT - _BOTTOM + 11}" text-anchor="{anchor}" fill="currentColor">{value}</text>'
        )
        made.append(
            f'<text x="{_LEFT - 4}" y="{y + 3:.0f}" text-anchor="end" fill="currentColor">{value}</text>'
        )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    made.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle" fill="currentColor">frame of the new video</text>'
    )
    made.append(
        f'<text transform="translate(9 {middle}) rotate(-90)" text-anchor="middle" fill="currentColor">source frame</text>'
    )
    return made
