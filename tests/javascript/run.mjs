// node run.mjs MODEL.onnx INPUTS.json: what ONNX Runtime gives on Node for one input; numbers in base64 both ways.
import { readFileSync } from 'node:fs';
import ort from 'onnxruntime-node';

const [model, file] = process.argv.slice(2);
const { type, dims, data } = JSON.parse(readFileSync(file, 'utf8'));
const bytes = Uint8Array.from(Buffer.from(data, 'base64'));
const session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1 });
const values = type === 'uint8' ? bytes : new Float32Array(bytes.buffer);
const results = await session.run({ [session.inputNames[0]]: new ort.Tensor(type, values, dims) });
const output = results[session.outputNames[0]];
const { buffer, byteOffset, byteLength } = output.data;
console.log(JSON.stringify({
  type: output.type, dims: output.dims, data: Buffer.from(buffer, byteOffset, byteLength).toString('base64'),
}));
