// Kernel fields (1, G, K, K, H', W') made visible.

/** The sum of every kernel's taps: of one group, or the mean over all. */
export function heatMap({ data, dims }, group = null) {
  const [, groups, high, wide, rows, columns] = dims;
  const taps = high * wide, map = new Float64Array(rows * columns);
  const chosen = group === null ? [...Array(groups).keys()] : [group];
  for (const g of chosen) {
    for (let tap = 0; tap < taps; tap++) {
      const begin = (g * taps + tap) * map.length;
      for (let at = 0; at < map.length; at++) map[at] += data[begin + at] / chosen.length;
    }
  }
  return map;
}

/** From where to where the kernel of an output pixel reaches along an axis, in output pixels, each a stride of the input's. */
export function covered({ kernel_size: size, stride, padding, dilation }, axis, at) {
  const first = at * stride[axis] - padding[axis], taps = (size[axis] - 1) * dilation[axis] + 1;
  return [first / stride[axis], (first + taps) / stride[axis]];
}

/** Lay a map over what the context shows, from its least value to its largest, enlarged smoothly. */
export function drawHeatMap(context, map, rows, columns, colours, strength) {
  const low = Math.min(...map), range = Math.max(...map) - low;
  const small = new OffscreenCanvas(columns, rows), pixels = new ImageData(columns, rows);
  map.forEach((value, at) => {
    const colour = colours[range > 0 ? Math.round((255 * (value - low)) / range) : 128];
    pixels.data.set([...colour, 255], 4 * at);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.save();
  context.globalAlpha = strength;
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
  context.restore();
}

/** Draw the kernel of a group at a pixel, zero in the middle of the colours; return its largest magnitude. */
export function drawKernel(canvas, { data, dims }, group, row, column, colours) {
  const [, , high, wide, rows, columns] = dims;
  const values = Array.from({ length: high * wide }, (_, tap) =>
    data[((group * high * wide + tap) * rows + row) * columns + column]);
  const most = Math.max(...values.map(Math.abs)), pixels = new ImageData(wide, high);
  values.forEach((value, tap) => {
    const colour = colours[most > 0 ? Math.round(127.5 + (127.5 * value) / most) : 128];
    pixels.data.set([...colour, 255], 4 * tap);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return most;
}
