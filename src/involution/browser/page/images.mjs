// An image as a net is to see it: resized and cropped as timm does with Pillow, then normalised.

const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const a = -0.5, t = Math.abs(x);
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
  }],
};

/** The pixels of an input row that make each pixel of an output row, and their weights; wider where the row shrinks. */
function weights(from, to, [reach, filter]) {
  const scale = from / to, wide = Math.max(scale, 1), support = reach * wide;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const values = Array.from({ length: end - first }, (_, k) => filter((first + k - centre + 0.5) / wide));
    const sum = values.reduce((a, b) => a + b, 0);
    return { first, values: values.map((value) => value / sum) };
  });
}

/** Resize the rows of RGBA bytes; alpha is left out of the sums. Between two passes there are bytes again, as in Pillow. */
function resizeRows(pixels, width, height, to, filter) {
  const table = weights(width, to, filter), result = new Uint8ClampedArray(to * height * 4);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < to; x++) {
      const { first, values } = table[x];
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < values.length; k++) sum += values[k] * pixels[(y * width + first + k) * 4 + c];
        result[(y * to + x) * 4 + c] = Math.floor(sum + 0.5);
      }
    }
  }
  return result;
}

function transposed(pixels, width, height) {
  const result = new Uint8ClampedArray(pixels.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) result[(x * height + y) * 4 + c] = pixels[(y * width + x) * 4 + c];
    }
  }
  return result;
}

/** Python's rounding of halves, which places the crop. */
function rounded(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

/** Where in an image of this size the net looks: the square that remains of it, in its own pixels. */
export function seen(width, height, crop) {
  const part = Math.min(width, height) * Math.min(crop, 1);
  return { x: (width - part) / 2, y: (height - part) / 2, side: part };
}

/** The float32 values (3, side, side) of RGBA bytes that a net takes. */
export function prepared({ data, width, height }, net, side) {
  const filter = FILTERS[net.interpolation];
  const short = Math.floor(side / net.crop);
  const [w, h] = width <= height
    ? [short, Math.trunc((short * height) / width)] : [Math.trunc((short * width) / height), short];
  const rows = resizeRows(data, width, height, w, filter);
  const columns = resizeRows(transposed(rows, w, height), height, w, h, filter);
  const left = rounded((w - side) / 2), top = rounded((h - side) / 2);
  const result = new Float32Array(3 * side * side);
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const value = columns[((left + x) * h + top + y) * 4 + c] / 255;
        result[(c * side + y) * side + x] = (value - net.mean[c]) / net.std[c];
      }
    }
  }
  return result;
}
