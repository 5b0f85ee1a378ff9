// What Node and the browser share: transformers.js on a folder, one mask of class ids per image.
export async function segmentAll({ env, pipeline }, { models, name, dtype, images }) {
  env.allowLocalModels = true;
  env.allowRemoteModels = false;
  env.localModelPath = models;
  const segmenter = await pipeline('image-segmentation', name, dtype ? { dtype } : {});
  const { label2id } = segmenter.model.config;
  const results = [];
  for (const image of images) {
    const start = performance.now();
    const found = await segmenter(image);
    const milliseconds = performance.now() - start;
    const { width, height } = found[0].mask;
    const ids = new Uint8Array(width * height).fill(255);
    for (const { label, mask } of found) {
      mask.data.forEach((value, index) => {
        if (value) ids[index] = label2id[label];
      });
    }
    results.push({ width, height, milliseconds, ids });
  }
  return results;
}
