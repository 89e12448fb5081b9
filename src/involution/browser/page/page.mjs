// The page: what it holds, what happens when an image comes, and what is drawn when the pointer moves.

import { prepared, seen } from "./images.mjs";
import { covered, drawHeatMap, drawKernel, heatMap } from "./kernels.mjs";

const MEGABYTES = 64, MEGAPIXELS = 50, ROUNDS = 10;
const $ = (id) => document.getElementById(id);
const picture = $("picture"), context = picture.getContext("2d");

let ort, page, sessions = [];
let image = null;       // {bitmap, bytes, name}
let results = [];       // of each net: {probabilities, fields}
let pixel = { row: 0.5, column: 0.5 };  // shares of the square that is shown
let work = Promise.resolve();

function say(text, isError = false) {
  $("message").textContent = text;
  $("message").hidden = !text;
  $("message").className = isError ? "error" : "";
}

/** Runs one thing after the other, and says what fails. */
function after(task) {
  work = work.then(task).catch((error) => say(error instanceof Refusal ? error.message : `This failed: ${error.message ?? error}`, true));
  return work;
}

class Refusal extends Error {}

async function start() {
  if (typeof WebAssembly === "undefined") {
    throw new Refusal("This browser has no WebAssembly, which the nets run on; allow it, or use another browser.");
  }
  say("Reading what the page holds …");
  page = await (await fetched("page.json")).json();
  ort = await import("./ort.wasm.min.mjs");
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  for (const net of page.nets) {
    say(`Loading ${net.name} (${(net.bytes / 1e6).toFixed(1)} MB) …`);
    const bytes = new Uint8Array(await (await fetched(net.file)).arrayBuffer());
    sessions.push(await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  }
  options($("net"), page.nets.map((net, i) => [i, net.name]).filter(([i]) => page.nets[i].layers.length));
  const own = [...new Set(page.nets.map((net) => net.side))];
  const shared = page.nets[0].sides.filter((side) => page.nets.every((net) => net.sides.includes(side)));
  options($("side"), [
    ["own", own.length > 1 ? "each net's own" : `${own[0]} pixels, as evaluated`],
    ...shared.filter((side) => own.length > 1 || side !== own[0]).map((side) => [side, `${side} pixels`]),
  ]);
  chooseNet();
  listen();
  for (const example of page.examples) addExample(example);
  $("footer").textContent = `${page.runtime}, WebAssembly, ${ort.env.wasm.numThreads} ${ort.env.wasm.numThreads > 1 ? "threads" : "thread"}. `
    + "A heat map is the sum of each kernel's taps, the mean over groups or one group.";
  document.querySelector("main").hidden = false;
  say("Drop an image, or choose an example.");
  if (page.examples.length) await openExample(page.examples[0]);
}

async function fetched(file) {
  const response = await fetch(file);
  if (!response.ok) throw new Refusal(`${file} is missing beside this page (status ${response.status}); make the page anew with involution demo.`);
  return response;
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

// An image comes

async function openExample(example) {
  await openImage(await (await fetched(example.file)).blob(), example.name);
  for (const button of $("examples").children) button.ariaPressed = String(button.title === example.name);
}

async function openImage(blob, name) {
  if (blob.size > MEGABYTES * 1e6) {
    throw new Refusal(`${name} has ${(blob.size / 1e6).toFixed(0)} MB; the page takes images of up to ${MEGABYTES}: save it smaller.`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    throw new Refusal(`${name} is no image that this browser can read; choose a PNG, JPEG or WebP file.`);
  }
  const { width, height } = bitmap;
  if (width * height > MEGAPIXELS * 1e6) {
    throw new Refusal(`${name} has ${width}×${height} pixels; the page takes up to ${MEGAPIXELS} megapixels: save it smaller.`);
  }
  if (Math.max(width, height) > 20 * Math.min(width, height)) {
    throw new Refusal(`${name} has ${width}×${height} pixels, of which a net sees a square; cut out the part that matters.`);
  }
  const canvas = new OffscreenCanvas(width, height);
  const drawn = canvas.getContext("2d", { willReadFrequently: true });
  drawn.drawImage(bitmap, 0, 0);
  image = { bitmap, bytes: drawn.getImageData(0, 0, width, height), name };
  for (const button of $("examples").children) button.ariaPressed = "false";
  await look();
  await time();
}

/** Applies every net to the image. */
async function look() {
  const found = [];
  for (const [i, net] of page.nets.entries()) {
    say(`${net.name} looks at ${image.name} …`);
    const outputs = await run(i, input(net));
    const names = sessions[i].outputNames;
    found.push({
      probabilities: softmax(outputs[names[0]].data),
      fields: net.layers.map((layer, k) => ({ data: outputs[names[k + 1]].data, dims: outputs[names[k + 1]].dims })),
      time: null,
    });
  }
  results = found;
  $("name").textContent = `${image.name}, ${image.bitmap.width}×${image.bitmap.height} pixels, of which the nets see the square in the middle`;
  say("");
  showAnswers();
  chooseLayer();
}

/** Height and width of what a net sees, in pixels. */
function sideOf(net) {
  return $("side").value === "own" ? net.side : Number($("side").value);
}

function input(net) {
  const side = sideOf(net);
  return new ort.Tensor("float32", prepared(image.bytes, net, side), [1, 3, side, side]);
}

function run(i, tensor) {
  return sessions[i].run({ [sessions[i].inputNames[0]]: tensor });
}

/** Times all nets on the image, one call of each in turn. */
async function time() {
  const inputs = page.nets.map(input);
  const times = page.nets.map(() => []);
  for (let round = 0; round <= ROUNDS; round++) {
    for (const i of page.nets.keys()) {
      const begin = performance.now();
      await run(i, inputs[i]);
      if (round) times[i].push(performance.now() - begin);
    }
    // Lets the browser answer what the user does meanwhile.
    await new Promise((resolve) => setTimeout(resolve));
  }
  times.forEach((values, i) => { results[i].time = values.sort((a, b) => a - b); });
  $("footing").textContent = `median and range of ${ROUNDS} calls of each in turn, with the kernels handed to the page`;
  showAnswers();
}

function softmax(logits) {
  const most = Math.max(...logits), parts = Array.from(logits, (value) => Math.exp(value - most));
  const sum = parts.reduce((a, b) => a + b, 0);
  return parts.map((value) => value / sum);
}

// What is shown

function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

function showAnswers() {
  $("answers").replaceChildren(...page.nets.map((net, i) => {
    const box = element("div", "", { className: "answer" });
    const { probabilities, time: times } = results[i];
    const best = probabilities.map((p, k) => [p, net.labels[k]]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const table = element("table");
    for (const [p, label] of best) {
      const row = table.insertRow();
      // ImageNet's names list synonyms.
      Object.assign(row.insertCell(), { textContent: label.split(",")[0], title: label });
      row.insertCell().append(element("meter", "", { value: p, ariaLabel: `${label}: ${(100 * p).toFixed(1)} %` }));
      row.insertCell().textContent = `${(100 * p).toFixed(1)} %`;
    }
    const milliseconds = (value) => value.toFixed(value < 10 ? 1 : 0);
    const speed = times ? `${milliseconds(times[Math.floor(times.length / 2)])} ms (${milliseconds(times[0])} to ${milliseconds(times.at(-1))})` : "being timed";
    const side = sideOf(net), own = side === net.side ? "" : ` at ${net.side}×${net.side} pixels`;
    const cost = `${(net.params / 1e6).toFixed(2)} M parameters, ${(net.macs / 1e6).toFixed(0)} M multiply-adds${own}; ${speed} at ${side}×${side} pixels`;
    box.append(element("h3", net.name), table, element("p", cost));
    return box;
  }));
}

function chooseNet() {
  const net = page.nets[Number($("net").value)];
  if (!net || !$("net").options.length) return;
  options($("layer"), net.layers.map((layer, k) => [k, layer.name]));
  const wanted = net.layers.findIndex((layer) => layer.name.startsWith("layer2"));
  $("layer").value = Math.max(0, wanted);
  if (results.length) chooseLayer();
}

function chosen() {
  if (!results.length || !$("net").options.length) return null;
  const net = page.nets[Number($("net").value)], k = Number($("layer").value);
  return { layer: net.layers[k], net, ...results[Number($("net").value)].fields[k] };
}

function chooseLayer() {
  const layer = chosen();
  if (layer) {
    const groups = layer.dims[1], before = $("group").value;
    options($("group"), [["all", "all groups, averaged"], ...Array.from({ length: groups }, (_, g) => [g, `group ${g + 1} of ${groups}`])]);
    $("group").value = before !== "" && Number(before) < groups ? before : "all";
  }
  draw();
}

function draw() {
  if (!image) return;
  const net = page.nets[Number($("net").value) || 0], layer = chosen();
  const square = seen(image.bitmap.width, image.bitmap.height, net.crop);
  context.globalAlpha = 1;
  context.clearRect(0, 0, picture.width, picture.height);
  context.drawImage(image.bitmap, square.x, square.y, square.side, square.side, 0, 0, picture.width, picture.height);
  if (!layer) return;
  const [, groups, high, wide, rows, columns] = layer.dims;
  const group = $("group").value === "all" ? null : Number($("group").value);
  const map = heatMap(layer, group);
  drawHeatMap(context, map, rows, columns, page.colours.magma, $("strength").value / 100);
  const row = Math.min(rows - 1, Math.floor(pixel.row * rows)), column = Math.min(columns - 1, Math.floor(pixel.column * columns));
  drawWindow(layer.layer.window, rows, columns, row, column);
  const kernels = Array.from({ length: groups }, (_, g) => {
    const figure = element("figure", "", { className: g === group ? "chosen" : "" });
    const canvas = element("canvas", "", { width: wide, height: high });
    const most = drawKernel(canvas, layer, g, row, column, page.colours.RdBu_r);
    figure.append(canvas, element("figcaption", `group ${g + 1}, ±${most.toPrecision(2)}`));
    return figure;
  });
  $("kernels").replaceChildren(...kernels);
  $("pixel").textContent = `${layer.layer.name} makes ${groups} ${groups > 1 ? "kernels" : "kernel"} of ${high}×${wide} at each of its ${rows}×${columns} pixels; these are of row ${row + 1}, column ${column + 1}. Red is positive, blue negative.`;
}

/** Draws the chosen pixel and what of the image its kernel covers. */
function drawWindow(window, rows, columns, row, column) {
  const cell = { high: picture.height / rows, wide: picture.width / columns };
  const down = covered(window, 0, row), right = covered(window, 1, column);
  for (const [top, bottom, left, end, width] of [[row, row + 1, column, column + 1, 3], [...down, ...right, 1.5]]) {
    const box = [left * cell.wide, top * cell.high, (end - left) * cell.wide, (bottom - top) * cell.high];
    context.lineWidth = width + 2;
    context.strokeStyle = "#000a";
    context.strokeRect(...box);
    context.lineWidth = width;
    context.strokeStyle = "#fff";
    context.strokeRect(...box);
  }
}

// What the user does

function addExample(example) {
  const button = element("button", "", { type: "button", title: example.name, ariaPressed: "false" });
  button.append(element("img", "", { src: example.file, alt: example.name }));
  button.addEventListener("click", () => after(() => openExample(example)));
  $("examples").append(button);
}

function bring(files) {
  if (!files.length) return;
  after(() => openImage(files[0], files[0].name || "the image"));
}

function listen() {
  $("file").addEventListener("change", () => { bring([...$("file").files]); $("file").value = ""; });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dragging", name === "dragover");
      if (name === "drop") bring([...event.dataTransfer.files]);
    });
  }
  document.addEventListener("paste", (event) => bring([...event.clipboardData.files]));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const share = (value, length) => Math.min(Math.max(value / length, 0), 1 - 1e-9);
    pixel = { row: share(event.clientY - box.top, box.height), column: share(event.clientX - box.left, box.width) };
    draw();
  });
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const layer = chosen();
    if (!step || !layer) return;
    event.preventDefault();
    const moved = (value, count, by) => (Math.min(count - 1, Math.max(0, Math.floor(value * count) + by)) + 0.5) / count;
    pixel = { row: moved(pixel.row, layer.dims[4], step[0]), column: moved(pixel.column, layer.dims[5], step[1]) };
    draw();
  });
  $("net").addEventListener("change", chooseNet);
  $("layer").addEventListener("change", chooseLayer);
  $("group").addEventListener("change", draw);
  $("strength").addEventListener("input", draw);
  $("side").addEventListener("change", () => { if (image) after(async () => { await look(); await time(); }); });
  $("time").addEventListener("click", () => { if (image) after(time); });
}

after(start);
