// node node.mjs '{"models": ..., "name": ..., "dtype": ..., "images": [...]}': masks as JSON, ids in base64.
import { env, pipeline } from '@huggingface/transformers';
import { segmentAll } from './segment.js';

const results = await segmentAll({ env, pipeline }, JSON.parse(process.argv[2]));
console.log(JSON.stringify(results.map((r) => ({ ...r, ids: Buffer.from(r.ids).toString('base64') }))));
