// The page follows the cluster without reload, and says when it can't.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { AlertState } from '../../src/gen/tessera/v1/alert_pb';
import { FakeMgmt } from '../fake/server';
import { consoleFolder, goTo, openPage, signIn, Stage } from './browser';

let stage: Stage;
before(async () => { stage = await Stage.start(); });
after(() => stage.stop());

test('An alert, a lost server and a rebuild turn up where they belong, are acknowledged, and go', async () => {
  const page = await stage.page();
  await page.getByText('Nothing needs attention.').waitFor();
  stage.mgmt.world.degrade();
  stage.mgmt.poll();
  await page.locator('.verdict').getByText('SDS sds3 does not answer').waitFor();
  await page.getByRole('progressbar', { name: 'Rebuild: device 5 of sds3' }).waitFor();
  await goTo(page, '#/topology');
  await page.getByRole('link', { name: 'sds3 does not answer' }).waitFor();
  await page.getByText('Has the last copy of').first().waitFor();
  await goTo(page, '#/alerts');
  await page.getByRole('button', { name: 'Acknowledge SDS sds3 does not answer' }).click();
  await page.getByLabel('What you are doing about it').fill('swapping its power supply');
  await page.getByRole('dialog').getByRole('button', { name: 'Acknowledge', exact: true }).click();
  await page.locator('.alerts').getByText('swapping its power supply').waitFor();
  for (const alert of stage.mgmt.world.alerts) {
    alert.state = AlertState.RESOLVED;
    stage.mgmt.hub.send({ case: 'alert', value: alert });
  }
  await page.getByText('No alerts are active.').waitFor();
  assert.deepEqual(page.watch.faults, []);
  await page.context().close();
});

test('A volume that somebody else made turns up in the list without reload', async () => {
  const page = await stage.page();
  await goTo(page, '#/volumes');
  stage.mgmt.world.addVolume({ name: 'made-elsewhere' });
  stage.mgmt.hub.send({ case: 'objects', value: { $typeName: 'tessera.v1.ObjectsChanged', topology: false, volumes: true } });
  await page.getByRole('link', { name: 'made-elsewhere' }).waitFor();
  await page.context().close();
});

test('A lost stream greys the page and says since when; when the server is back the page is live again by itself', async () => {
  const mgmt = new FakeMgmt(consoleFolder);
  const origin = await mgmt.start();
  const context = await stage.browser.newContext();
  const page = await openPage(context, origin);
  await signIn(page, origin);
  await page.locator('.stream-mark.live').waitFor();
  mgmt.hub.cut();
  await page.waitForFunction(() => document.querySelector('.stream-mark.live') !== null && document.querySelector('.notice') === null);
  await mgmt.stop();
  await page.getByText(/^As of/).waitFor();
  await page.locator('main.old').waitFor();
  const back = new FakeMgmt(consoleFolder);
  // The same port, and sessions that outlived the restart, as MGMT's do.
  Object.assign(back.sessions, { userOf: () => back.world.users[0] });
  await back.start(Number(new URL(origin).port));
  await page.locator('main:not(.old)').waitFor();
  await page.locator('.stream-mark.live').waitFor();
  await context.close();
  await back.stop();
});

test('With the MDM away the page says so and since when', async () => {
  const page = await stage.page();
  stage.mgmt.world.mdmAnswers = false;
  stage.mgmt.poll();
  await page.getByText('The MDM does not answer.').waitFor();
  stage.mgmt.world.mdmAnswers = true;
  stage.mgmt.poll();
  await page.getByText('The MDM does not answer.').waitFor({ state: 'detached' });
  await page.context().close();
});

test('Dragging across a chart zooms in, and the range is in the address', async () => {
  const page = await stage.page();
  await goTo(page, '#/monitoring');
  const chart = page.locator('.u-over').first();
  const box = await chart.boundingBox();
  assert.ok(box);
  await page.mouse.move(box.x + box.width * 0.3, box.y + 40);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, box.y + 40, { steps: 5 });
  await page.mouse.up();
  await page.getByRole('button', { name: 'Back to live' }).waitFor();
  assert.match(page.url(), /from=\d+&until=\d+/);
  await page.getByRole('button', { name: 'Back to live' }).click();
  await page.getByRole('button', { name: '6 h' }).click();
  assert.match(page.url(), /span=21600000/);
  await page.context().close();
});

test('Each chart has its figures in words for those who can’t see it', async () => {
  const page = await stage.page();
  await page.locator('.chart').first().waitFor();
  const words = (await page.locator('.chart > p.hidden').first().textContent() ?? '').replaceAll('\u00a0', ' ');
  assert.match(words, /^IO operations\. Reads: now .+ IO\/s, mean .+, at least .+, at most .+\. Writes: now /);
  await page.context().close();
});
