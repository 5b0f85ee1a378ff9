// Segments a photo or the webcam: image in, mask of class ids out, by the ONNX file beside this page.
import * as ort from './ort.wasm.bundle.min.mjs';

const element = (id) => document.getElementById(id);
const [file, webcam, side, opacity, status, stage] =
  ['file', 'webcam', 'side', 'opacity', 'status', 'stage'].map(element);
const image = element('image').getContext('2d', { willReadFrequently: true });
const mask = element('mask').getContext('2d', { willReadFrequently: true });

let settings, session, colors, stream, busy = false;
let webcamLoop = Promise.resolve();

async function segment({ data, width, height }) {
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  const input = new ort.Tensor('uint8', rgb, [1, height, width, 3]);
  return (await session.run({ image: input })).mask.data;
}

function draw(ids, width, height) {
  const colored = mask.createImageData(width, height);
  const seen = new Set(ids), pixels = new Uint32Array(colored.data.buffer);
  for (let index = 0; index < ids.length; index++) pixels[index] = colors[ids[index]];
  mask.canvas.width = width;
  mask.canvas.height = height;
  mask.putImageData(colored, 0, 0);
  element('legend').replaceChildren(...[...seen].sort((a, b) => a - b).map((id) => {
    const entry = document.createElement('span'), color = document.createElement('i');
    color.style.background = `rgb(${settings.palette[id].join()})`;
    entry.append(color, settings.labels[id]);
    return entry;
  }));
}

// Returns the milliseconds that the network took.
async function show(source, sourceWidth, sourceHeight) {
  const scale = Math.min(1, Number(side.value) / Math.max(sourceWidth, sourceHeight));
  const width = Math.max(1, Math.round(sourceWidth * scale)), height = Math.max(1, Math.round(sourceHeight * scale));
  image.canvas.width = width;
  image.canvas.height = height;
  image.drawImage(source, 0, 0, width, height);
  const start = performance.now();
  const ids = await segment(image.getImageData(0, 0, width, height));
  const milliseconds = performance.now() - start;
  draw(ids, width, height);
  return milliseconds;
}

async function showPhoto(photo) {
  if (!photo || busy) return;
  busy = true;
  stopWebcam();
  await webcamLoop; // its last image must not cover the photo
  status.textContent = 'Segmenting …';
  try {
    const bitmap = await createImageBitmap(photo);
    const milliseconds = await show(bitmap, bitmap.width, bitmap.height);
    status.textContent = `${image.canvas.width}x${image.canvas.height}: ${milliseconds.toFixed(0)} ms`;
  } catch (error) {
    status.textContent = `This photo could not be segmented: ${error.message ?? error}`;
  } finally {
    busy = false;
  }
}

function stopWebcam() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  webcam.textContent = 'Webcam';
}

async function startWebcam() {
  if (busy) return;
  webcam.disabled = true; // a second click would open a second stream, which nobody stops
  let opened;
  try {
    opened = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    status.textContent = `The webcam cannot be used: ${error.message ?? error}`;
    return;
  } finally {
    webcam.disabled = false;
  }
  stream = opened;
  if (busy) { // a photo came while the browser asked
    stopWebcam();
    return;
  }
  webcam.textContent = 'Stop';
  try {
    await follow(opened);
  } catch (error) {
    if (stream !== opened) return; // stopped
    stopWebcam();
    status.textContent = `The webcam could not be segmented: ${error.message ?? error}`;
  }
}

async function follow(opened) {
  const video = document.createElement('video');
  video.muted = video.playsInline = true;
  video.srcObject = opened;
  await video.play();
  let last = performance.now(), rate = 0;
  while (stream === opened) {
    const milliseconds = await show(video, video.videoWidth, video.videoHeight);
    await new Promise(requestAnimationFrame);
    const now = performance.now(), current = 1000 / (now - last);
    rate = rate ? 0.8 * rate + 0.2 * current : current;
    last = now;
    const size = `${image.canvas.width}x${image.canvas.height}`;
    status.textContent = `${size}: ${rate.toFixed(1)} frames per second, network ${milliseconds.toFixed(0)} ms`;
  }
}

async function load() {
  ort.env.wasm.wasmPaths = { wasm: new URL('./ort-wasm-simd-threaded.wasm', import.meta.url).href };
  // Threads need the headers that README.md asks a static Space for.
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;
  settings = await (await fetch('./settings.json')).json();
  // Bytes as they lie in memory: red, green, blue, opaque.
  colors = settings.palette.map(([red, green, blue]) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0);
  element('title').textContent = document.title = settings.title;
  session = await ort.InferenceSession.create('./model.onnx', { executionProviders: ['wasm'] });
  status.textContent = 'Ready.';
}

file.addEventListener('change', () => showPhoto(file.files[0]));
webcam.addEventListener('click', () => {
  if (stream) stopWebcam();
  else webcamLoop = startWebcam();
});
opacity.addEventListener('input', () => { mask.canvas.style.opacity = opacity.value; });
mask.canvas.style.opacity = opacity.value;
stage.addEventListener('dragover', (event) => { event.preventDefault(); stage.classList.add('over'); });
stage.addEventListener('dragleave', () => stage.classList.remove('over'));
stage.addEventListener('drop', (event) => {
  event.preventDefault();
  stage.classList.remove('over');
  showPhoto(event.dataTransfer.files[0]);
});
for (const control of [file, webcam]) control.disabled = true;
try {
  await load();
  for (const control of [file, webcam]) control.disabled = false;
} catch (error) {
  status.textContent = `The model could not be loaded: ${error.message ?? error}`;
}
