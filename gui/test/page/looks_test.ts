// Every page as it looks: readable in both themes, on a telephone and on a wall, with nothing that the policy forbids.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { accessibilityFaults, allPages, goTo, openPage, Stage } from './browser';

let stage: Stage;
let volumePages: [string, string][];
before(async () => {
  stage = await Stage.start();
  stage.mgmt.world.degrade();
  const volume = `#/volumes/${stage.mgmt.world.volumes[0]?.volumeId}`;
  volumePages = [['volume', volume], ['volume-latency', `${volume}?tab=latency`]];
});
after(() => stage.stop());

const shots = process.env['SCREENSHOTS'];

for (const theme of ['light', 'dark'] as const) {
  test(`Every page is free of serious accessibility faults in ${theme} colours`, async () => {
    const page = await stage.page({ colorScheme: theme });
    const faults: string[] = [];
    for (const [name, hash] of [...allPages, ...volumePages]) {
      await goTo(page, hash);
      if (shots) {
        mkdirSync(shots, { recursive: true });
        await page.screenshot({ path: join(shots, `${name}-${theme}.png`) });
      }
      faults.push(...(await accessibilityFaults(page)).map((fault) => `${name}: ${fault}`));
    }
    assert.deepEqual([...faults, ...page.watch.faults], []);
    await page.context().close();
  });

  test(`Sign-in, dialogs and the shortcut list are free of serious accessibility faults in ${theme} colours`, async () => {
    const context = await stage.browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: theme });
    const signedOut = await openPage(context, stage.origin);
    await signedOut.goto(stage.origin);
    await signedOut.getByRole('heading', { name: 'Sign in' }).waitFor();
    const faults = await accessibilityFaults(signedOut);
    if (shots) await signedOut.screenshot({ path: join(shots, `sign-in-${theme}.png`) });
    await context.close();
    const page = await stage.page({ colorScheme: theme });
    await goTo(page, '#/volumes');
    for (const name of ['Create volume', 'Delete db-test', 'Map db-main', 'Snapshot of db-main', 'Resize db-main']) {
      await page.getByRole('button', { name, exact: true }).click();
      await page.getByRole('dialog').waitFor();
      faults.push(...(await accessibilityFaults(page)).map((fault) => `${name}: ${fault}`));
      if (shots) await page.screenshot({ path: join(shots, `dialog-${name.split(' ')[0]?.toLowerCase()}-${theme}.png`) });
      await page.keyboard.press('Escape');
      await page.getByRole('dialog').waitFor({ state: 'detached' });
    }
    await page.keyboard.press('?');
    await page.getByRole('dialog', { name: 'Keyboard shortcuts' }).waitFor();
    faults.push(...await accessibilityFaults(page));
    assert.deepEqual([...faults, ...page.watch.faults], []);
    await page.context().close();
  });
}

for (const [name, width, height] of [['a telephone, 360 pixels wide', 360, 740], ['a wall screen, 1,920 pixels wide', 1920, 1080], ['a wall screen, 3,840 pixels wide', 3840, 2160]] as const) {
  test(`No page scrolls sideways on ${name}`, async () => {
    const page = await stage.page({ viewport: { width, height } });
    const wide: string[] = [];
    for (const [shot, hash] of [...allPages, ...volumePages]) {
      await goTo(page, hash);
      if (shots) await page.screenshot({ path: join(shots, `${shot}-${width}.png`) });
      // Boxes that scroll by themselves count, too: nothing may be cut off.
      const found = await page.evaluate(() => [...document.querySelectorAll('html, main, .table-box, dialog')]
        .filter((element) => element.scrollWidth > element.clientWidth + 1).map((element) => `${element.tagName}.${element.className} ${element.scrollWidth} > ${element.clientWidth}`));
      wide.push(...found.map((one) => `${shot}: ${one}`));
    }
    assert.deepEqual(wide, []);
    await page.context().close();
  });
}

test('The page is announced by its title and its heading has the focus after going there', async () => {
  const page = await stage.page();
  await page.getByRole('navigation', { name: 'Pages', exact: true }).getByRole('link', { name: 'Volumes' }).click();
  await page.waitForFunction(() => document.activeElement?.textContent === 'Volumes' && document.title === 'Volumes · Tessera');
  await page.context().close();
});
