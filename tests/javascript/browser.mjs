// node browser.mjs CHROMIUM URL READY EXPRESSION: opens a page, waits until READY is true there, and prints what
// EXPRESSION gives, every address that was asked for, those that were not there, how many bytes came, and the errors.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const [executablePath, url, ready, expression] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'kaseg-chromium-'));
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream'];
const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args });
try {
  const page = await context.newPage();
  const requests = [], missing = [], errors = [], sizes = [];
  page.on('request', (request) => requests.push(request.url()));
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) errors.push(message.text());
  });
  page.on('response', (response) => response.status() >= 400 && missing.push(response.url()));
  page.on('requestfinished', (request) => sizes.push(request.sizes().then((s) => s.responseBodySize, () => 0)));
  page.setDefaultTimeout(120000);
  await page.goto(url);
  await page.waitForFunction(ready);
  const result = await page.evaluate(expression);
  const received = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  console.log(JSON.stringify({ result, requests, missing, errors, received }));
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
