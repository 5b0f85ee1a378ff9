// node webcam.mjs APP.js: runs the page's script on stand-ins for what a browser has, with a webcam that fails, one that is
// clicked at twice while the browser still asks, and a photo that comes meanwhile; prints what is left.
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const folder = mkdtempSync(join(tmpdir(), 'kaseg-page-'));
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const until = async (condition, what) => {
  for (let turn = 0; turn < 4000 && !condition(); turn++) await wait(5);
  if (!condition()) throw new Error(`never: ${what}`);
};

class Element {
  constructor() {
    Object.assign(this, { listeners: {}, style: {}, classList: { add() {}, remove() {} }, textContent: '', value: '512' });
  }
  addEventListener(kind, listener) { this.listeners[kind] = listener; }
  fire(kind, event = {}) { if (!this.disabled) this.listeners[kind]({ preventDefault() {}, ...event }); }
  click() { this.fire('click'); }
  append() {}
  replaceChildren() {}
  getContext() {
    const pixels = (width, height) => ({ data: new Uint8ClampedArray(width * height * 4), width, height });
    return {
      canvas: this, drawImage() {}, putImageData() {}, createImageData: pixels,
      getImageData: (x, y, width, height) => pixels(width, height),
    };
  }
}

const tracks = [], elements = {};
let plays = false;
const element = (id) => (elements[id] ??= new Element());
class Video extends Element {
  videoWidth = 64;
  videoHeight = 48;
  async play() { if (!plays) throw new Error('no image'); }
}
const getUserMedia = async () => {
  await wait(30); // the browser asks
  const track = { live: true, stop() { this.live = false; } };
  tracks.push(track);
  return { getTracks: () => [track] };
};
Object.assign(globalThis, {
  document: { getElementById: element, createElement: (name) => (name === 'video' ? new Video() : new Element()) },
  crossOriginIsolated: false,
  requestAnimationFrame: (next) => setTimeout(next, 1),
  createImageBitmap: async () => ({ width: 97, height: 65 }),
  fetch: async () => ({ json: async () => ({ title: 't', labels: ['a'], palette: [[1, 2, 3]] }) }),
});
Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency: 1, mediaDevices: { getUserMedia } } });

try {
  copyFileSync(process.argv[2], join(folder, 'app.mjs'));
  writeFileSync(join(folder, 'ort.wasm.bundle.min.mjs'), `
    export const env = { wasm: {} };
    export class Tensor { constructor(type, data, dims) { this.dims = dims; } }
    export const InferenceSession = { create: async () => ({
      run: async ({ image }) => {
        const [, height, width] = image.dims; // an image of the webcam takes longer than the photo that comes meanwhile
        await new Promise((resolve) => setTimeout(resolve, width === 64 ? 60 : 1));
        return { mask: { data: new Uint8Array(height * width) } };
      } }) };`);
  const failures = [];
  process.on('unhandledRejection', (error) => failures.push(String(error)));
  await import(pathToFileURL(join(folder, 'app.mjs')).href);
  const webcam = element('webcam'), status = element('status'), seen = {};
  const live = () => tracks.filter((track) => track.live).length;
  webcam.click();
  await until(() => tracks.length === 1, 'a webcam that fails');
  await wait(100);
  Object.assign(seen, { failed: status.textContent, button: webcam.textContent, liveAfterFailure: live() });
  plays = true;
  if (webcam.textContent === 'Stop') webcam.click();
  webcam.click();
  webcam.click();
  await until(() => /frames per second/.test(status.textContent), 'a webcam that works');
  webcam.click();
  await wait(100);
  seen.liveAfterStop = live();
  status.textContent = '';
  webcam.click();
  await until(() => /frames per second/.test(status.textContent), 'the webcam again');
  element('stage').fire('drop', { dataTransfer: { files: ['photo'] } });
  await until(() => /^97x65: \d+ ms$/.test(status.textContent), `the photo in place of it, but ${status.textContent}`);
  await wait(200);
  Object.assign(seen, { inPlace: status.textContent, liveInPlace: live() });
  status.textContent = '';
  webcam.click();
  element('stage').fire('drop', { dataTransfer: { files: ['photo'] } });
  await until(() => /^97x65: \d+ ms$/.test(status.textContent), `the photo, but ${status.textContent}`);
  Object.assign(seen, { photo: status.textContent, liveAfterPhoto: live(), failures });
  console.log(JSON.stringify(seen));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exit(0);
