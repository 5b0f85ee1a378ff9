// node demo.mjs CHROMIUM URL IMAGE: drops an image into the Gradio page, switches the model and a class, and prints what is
// shown, how wide the page is on a phone, and which addresses outside of it were asked for.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const [executablePath, url, image] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'kaseg-chromium-'));
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const context = await chromium.launchPersistentContext(profile, { executablePath, headless: true, args });
try {
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.setDefaultTimeout(120000);
  const shown = () => page.evaluate(() => [...document.querySelectorAll('#result img')].map((i) => i.src).join(' '));
  const changed = async (before) => {
    await page.waitForFunction((old) => [...document.querySelectorAll('#result img')].map((i) => i.src).join(' ') !== old, before);
    return shown();
  };
  await page.goto(url);
  await page.waitForSelector('#image input[type=file]', { state: 'attached' });
  const nothing = await shown();
  await page.setInputFiles('#image input[type=file]', image);
  await page.waitForSelector('#classes input[type=checkbox]');
  const first = await changed(nothing);
  const speed = await page.textContent('#speed');
  await page.click('#model input');
  await page.getByRole('option', { name: 'second' }).click();
  await page.waitForFunction(() => document.querySelector('#speed').textContent.includes('second'));
  const other = await shown();
  const classes = await page.locator('#classes input[type=checkbox]').count();
  await page.locator('#classes input[type=checkbox]').first().click();
  const without = await changed(other);
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(500);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  const legend = await page.textContent('#legend');
  console.log(JSON.stringify({ speed, classes, legend, width, errors, differ: new Set([first, other, without]).size }));
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
