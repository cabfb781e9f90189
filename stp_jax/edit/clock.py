"""The clock as a curve that is dragged: a drawing in SVG, with the source's pictures along it.

viser has no such control. The drawing's handlers move a point under the pointer, and on release write the
points into the page's text field of the clock, as a person would type them.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from stp_jax.errors import InputError

WIDTH, HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 22, 42, 26  # margins around the curve
_PICTURES = 9  # along the curve
_SIDE = (WIDTH - _LEFT - _RIGHT) / _PICTURES
_STYLE = "width:100%;touch-action:none;font:10px sans-serif;user-select:none"
COMMIT = ";"  # at the end of the text field's value: it is taken at once

# The point that is dragged is `this.p`. On release the text of all points is written to the field that has
# the text which was drawn; React listens to the field's `input` event.
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
    now = place(frame, 0)[0]
    end = _LEFT + wide
    parts = [
        f'<svg class="stp-clock" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="clock"',
        f' style="{_STYLE}"{attributes}{handlers}>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{wide}" height="{high}" fill="#8881" stroke="#8886"/>',
        *_strip(curve, pictures),
        _line((_LEFT, bottom), (end, _TOP), 'stroke="#888" stroke-dasharray="2 4"'),
        _line((now, _TOP), (now, bottom), 'stroke="#2b8a3e"'),
        f'<polyline points="{line}" fill="none" stroke="#d62728" stroke-width="2"/>',
        *_labels(last),
    ]
    for f, t in points:
        x, y = place(f, t)
        colour = "#f59f00" if selected is not None and abs(f - selected[0]) < 1e-6 else "#fff"
        parts.append(
            f'<circle data-key="1" data-text="{f:.6g}:{t:.6g}" cx="{x:.1f}" cy="{y:.1f}" r="6"'
            f' fill="{colour}" stroke="#d62728" stroke-width="2" style="cursor:grab"/>'
        )
    return "".join([*parts, "</svg>"])


def _line(begin: tuple[float, float], end: tuple[float, float], style: str) -> str:
    return f'<line x1="{begin[0]:.1f}" y1="{begin[1]}" x2="{end[0]:.1f}" y2="{end[1]}" {style}/>'


def _words(text: str, where: str, anchor: str) -> str:
    return f'<text {where} text-anchor="{anchor}" fill="currentColor">{text}</text>'


def _strip(curve: np.ndarray, pictures: Sequence[str]) -> list[str]:
    """Pictures of the source above the curve, of the moment that each place of the new video shows."""
    made, last = [], max(len(curve) - 1, 1)
    for i in range(_PICTURES):
        shown = round(float(curve[round((i + 0.5) / _PICTURES * last)]))
        x = _LEFT + i * _SIDE
        side = f"{_SIDE - 1:.1f}"
        made.append(
            f'<image href="{pictures[shown]}" x="{x:.1f}" y="4" width="{side}" height="{side}"'
            f' preserveAspectRatio="xMidYMid slice"><title>source frame {shown}</title></image>'
        )
    return made


def _labels(last: int) -> list[str]:
    """Numbers at the axes, and what they count."""
    made, bottom = [], HEIGHT - _BOTTOM
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        value = f"{share * last:g}"
        x, y = _LEFT + share * (WIDTH - _LEFT - _RIGHT), bottom - share * (bottom - _TOP)
        made.append(_words(value, f'x="{x:.0f}" y="{bottom + 14}"', anchor))
        made.append(_words(value, f'x="{_LEFT - 9}" y="{y + 3:.0f}"', "end"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    made.append(_words("frame of the new video", f'x="{middle}" y="{HEIGHT - 3}"', "middle"))
    turned = f'transform="translate(9 {(_TOP + bottom) / 2}) rotate(-90)"'
    return [*made, _words("source frame", turned, "middle")]
