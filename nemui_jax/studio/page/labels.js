// Where the names of songs stand on the pad, so that none covers another, a song or the point.

const GAP = 6, HEIGHT = 21; // pixels

/** The boxes of names, the most important first; null where there is no room, unless a name is a must.
 *
 * `items`: { x, y, radius, widths, must } in pixels, where `widths` are those of the name and of shorter ones, which a name
 * that is a must may be; a box's `size` is the index of the one that it has room for. `obstacles`: boxes that stay free;
 * `space`: { width, height }.
 */
export function placeLabels(items, obstacles, space) {
  const taken = [...obstacles];
  return items.map((item) => {
    const sizes = item.must ? item.widths : item.widths.slice(0, 1);
    const inside = sizes.flatMap((width, size) => candidates({ ...item, width }, size)).filter(({ left, top, right, bottom }) => left >= 2 && top >= 2 && right <= space.width - 2 && bottom <= space.height - 2);
    const free = inside.find((box) => !taken.some((other) => overlap(box, other)));
    const box = free ?? (item.must ? leastCovered(inside, taken) : null);
    if (box) taken.push(box);
    return box;
  });
}

/** Boxes beside a song, the best first: right, left, above and below, then the same farther away. */
function* candidatesOf({ x, y, radius, width, must }) {
  for (const away of must ? [0, HEIGHT, 2 * HEIGHT] : [0, HEIGHT]) {
    const side = radius + GAP;
    for (const slide of [0, -away, away]) {
      yield [x + side, y - HEIGHT / 2 + slide];
      yield [x - side - width, y - HEIGHT / 2 + slide];
    }
    for (const slide of [0, -width / 2, width / 2]) {
      yield [x - width / 2 + slide, y - side - HEIGHT - away];
      yield [x - width / 2 + slide, y + side + away];
    }
  }
}

const candidates = (item, size) => [...candidatesOf(item)].map(([left, top]) => ({ left, top, right: left + item.width, bottom: top + HEIGHT, size }));

function leastCovered(boxes, taken) {
  const count = (box) => taken.filter((other) => overlap(box, other)).length;
  return boxes.reduce((best, box) => (best && count(best) <= count(box) ? best : box), null);
}

/** The box about a place. */
export const around = (x, y, radius) => ({ left: x - radius, top: y - radius, right: x + radius, bottom: y + radius });

const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
