// What people do with the console, against a real cluster.
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { accessibilityFaults, allPages, goTo, openPage, signIn, type Watch } from '../page/browser';
import { costsOfVolumeList, startMeasuring } from '../page/measure';
import { shrinkPng } from './png';

export interface Stage {
  browser: Browser;
  origin: string;
  adminPassword: string;
  /** Has something done outside of the browser. */
  ask(words: string): Promise<string>;
  say(words: string): void;
}

type Opened = Page & { watch: Watch };

async function open(stage: Stage, options: BrowserContextOptions = {}): Promise<Opened> {
  return openPage(await stage.browser.newContext({ viewport: { width: 1280, height: 800 }, ...options }), stage.origin);
}

async function admin(stage: Stage, options: BrowserContextOptions = {}): Promise<Opened> {
  const page = await open(stage, options);
  await signIn(page, stage.origin, 'admin', stage.adminPassword);
  await page.locator('.verdict').waitFor();
  return page;
}

async function enter(page: Page, userName: string, password: string): Promise<void> {
  await page.getByLabel('Name').fill(userName);
  await page.getByLabel('Password', { exact: true }).fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
}

async function choosePassword(page: Page, oneTime: string, chosen: string): Promise<void> {
  await page.getByRole('heading', { name: 'Choose a password' }).waitFor();
  await page.getByLabel('Present password').fill(oneTime);
  await page.getByLabel('New password', { exact: true }).fill(chosen);
  await page.getByLabel('New password again').fill(chosen);
  await page.getByRole('button', { name: 'Change password' }).click();
  await page.getByRole('heading', { level: 1, name: 'Dashboard' }).waitFor();
}

const signInFirst = async (stage: Stage) => {
  const page = await open(stage);
  await page.goto(stage.origin);
  const oneTime = await stage.ask('one-time password');
  await enter(page, 'admin', 'not this one');
  await page.getByRole('alert').getByText('SIGN_IN_FAILED').waitFor();
  await enter(page, 'admin', oneTime);
  await choosePassword(page, oneTime, stage.adminPassword);
  await page.locator('.user-menu summary').click();
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await enter(page, 'admin', oneTime);
  await page.getByRole('alert').getByText('SIGN_IN_FAILED').waitFor();
  await enter(page, 'admin', stage.adminPassword);
  await page.getByRole('heading', { level: 1, name: 'Dashboard' }).waitFor();
  assert.deepEqual(page.watch.faults, []);
};

const volumeLife = async (stage: Stage) => {
  const page = await admin(stage);
  const dialog = page.getByRole('dialog');
  await goTo(page, '#/volumes');
  await page.getByRole('button', { name: 'Create volume' }).click();
  await dialog.getByLabel('Name').fill('by-hand');
  await dialog.getByLabel('Size').fill('1000');
  await dialog.getByRole('button', { name: 'Create volume' }).click();
  await dialog.locator('#field-size-error').waitFor();
  await dialog.getByLabel('Size').fill('64MiB');
  await dialog.getByRole('button', { name: 'Create volume' }).click();
  await page.getByRole('link', { name: 'by-hand', exact: true }).click();
  await page.getByRole('heading', { level: 1, name: 'by-hand' }).waitFor();
  await page.getByRole('button', { name: 'Map', exact: true }).click();
  await page.getByRole('button', { name: 'Map volume' }).click();
  await page.getByText(/^nbd:\/\/.*by-hand/).waitFor();
  await page.getByRole('button', { name: 'Snapshot', exact: true }).click();
  await dialog.getByLabel('Name').fill('by-hand-before');
  await dialog.getByRole('button', { name: 'Create snapshot' }).click();
  await page.locator('.tree').getByRole('link', { name: 'by-hand-before' }).waitFor();
  await page.getByRole('button', { name: 'Resize' }).click();
  await dialog.getByLabel('New size').fill('128MiB');
  await dialog.getByRole('button', { name: 'Resize volume' }).click();
  await page.locator('.facts').getByText('128 MiB').waitFor();
  await page.getByRole('button', { name: 'Count what it takes' }).click();
  await page.getByText('what its deletion gives back').waitFor();
  await page.getByRole('button', { name: 'Unmap from sdc1' }).click();
  await dialog.getByRole('button', { name: 'Unmap volume' }).click();
  await page.getByText('Nobody has it mapped.').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Delete', exact: true }).getAttribute('title'), 'Delete its snapshots first');
  await goTo(page, '#/volumes?tab=snapshots');
  await page.getByRole('button', { name: 'Delete by-hand-before' }).click();
  await dialog.getByLabel('Keep in the trash for').fill('0s');
  await dialog.getByLabel('Type by-hand-before to confirm').fill('by-hand-before');
  await dialog.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByText('There are no snapshots yet.').waitFor();
  await goTo(page, '#/volumes');
  await page.getByRole('link', { name: 'by-hand', exact: true }).click();
  await page.getByText('It has no snapshots.').waitFor();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await dialog.getByLabel('Type by-hand to confirm').fill('by-hand');
  await dialog.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByRole('heading', { level: 1, name: 'Volumes' }).waitFor();
  await page.getByRole('link', { name: 'by-hand', exact: true }).waitFor({ state: 'detached' });
  await goTo(page, '#/volumes?tab=trash');
  await page.getByRole('button', { name: 'Restore by-hand' }).click();
  await dialog.getByRole('button', { name: 'Restore', exact: true }).click();
  await goTo(page, '#/volumes');
  await page.getByRole('link', { name: 'by-hand', exact: true }).waitFor();
  await goTo(page, '#/audit');
  await page.locator('tbody').getByText('RestoreVolume').first().waitFor();
  assert.deepEqual(page.watch.faults, []);
};

const killedServer = async (stage: Stage) => {
  const dashboard = await admin(stage);
  const context = dashboard.context();
  const [topology, alerts] = [await openPage(context, stage.origin), await openPage(context, stage.origin)];
  for (const [page, hash] of [[topology, '#/topology'], [alerts, '#/alerts']] as const) {
    await page.goto(`${stage.origin}/${hash}`);
    await page.locator('.stream-mark.live').waitFor();
  }
  await topology.getByRole('link', { name: 'sds2 online' }).waitFor();
  await alerts.getByText('No alerts are active.').waitFor();
  const reloaded = [dashboard, topology, alerts].map((page) => page.evaluate(() => { (window as unknown as { mark: boolean }).mark = true; }));
  await Promise.all(reloaded);
  await stage.ask('kill sds2');
  const killed = Date.now();
  const seen = async (name: string, wait: Promise<unknown>) => {
    await wait;
    stage.say(`seen ${name} ${Date.now() - killed}`);
  };
  await Promise.all([
    seen('dashboard', dashboard.locator('.alerts').getByText(/sds2/).first().waitFor()),
    seen('dashboard-part', dashboard.locator('.part.error, .part.critical, .part.warning', { hasText: 'sds2' }).waitFor()),
    seen('topology', topology.locator('.server:not(.ok)', { hasText: 'sds2' }).waitFor()),
    seen('alerts', alerts.locator('.alert').getByText(/sds2/).first().waitFor()),
  ]);
  await stage.ask('start sds2');
  await topology.locator('.server.ok', { hasText: 'sds2' }).waitFor();
  await alerts.locator('.alert', { hasText: 'sds2' }).first().waitFor({ state: 'detached' });
  await dashboard.locator('.alerts').getByText(/sds2 does not answer/).waitFor({ state: 'detached' });
  for (const page of [dashboard, topology, alerts]) {
    assert.ok(await page.evaluate(() => (window as unknown as { mark?: boolean }).mark), 'the page was loaded anew');
    assert.deepEqual(page.watch.faults, []);
  }
};

const rebuild = async (stage: Stage) => {
  const page = await admin(stage);
  await goTo(page, '#/operations');
  await stage.ask('lose sds3');
  const bar = page.getByRole('progressbar', { name: /^Rebuild/ }).first();
  await bar.waitFor();
  const percents: number[] = [];
  // The bar moves by itself: three different figures, then it is gone.
  while (percents.length < 3) {
    const last = percents.at(-1) ?? -1;
    await page.waitForFunction((before) => Number(document.querySelector('[role=progressbar][aria-label^=Rebuild]')?.getAttribute('aria-valuenow') ?? -1) > before, last);
    percents.push(Number(await bar.getAttribute('aria-valuenow')));
  }
  stage.say(`percents ${percents.join(' ')}`);
  assert.ok(percents.every((percent) => percent >= 0 && percent <= 100));
  await page.locator('.operation .figures').first().getByText(/of .+ placement groups/).waitFor();
  await stage.ask('let it finish');
  await bar.waitFor({ state: 'detached' });
  await page.locator('tbody').getByText(/^Rebuild: /).first().waitFor();
  await stage.ask('start sds3');
  assert.deepEqual(page.watch.faults, []);
};

const viewer = async (stage: Stage) => {
  const page = await admin(stage);
  const dialog = page.getByRole('dialog');
  await goTo(page, '#/users');
  await page.getByRole('button', { name: 'Add user' }).click();
  await dialog.getByLabel('Name').fill('vera');
  await dialog.getByRole('button', { name: 'Add user' }).click();
  await page.getByRole('dialog', { name: 'One-time password of vera' }).waitFor();
  const oneTime = await dialog.locator('#secret').inputValue();
  const other = await open(stage);
  await other.goto(stage.origin);
  await enter(other, 'vera', oneTime);
  await choosePassword(other, oneTime, 'only vera knows this');
  const own = new Set(['End', 'Make token', 'Revoke', 'Change password']);
  for (const [name, hash] of allPages) {
    await goTo(other, hash);
    const on = await other.locator('main [data-change]:not(:disabled)').allTextContents();
    assert.deepEqual(on.filter((text) => !own.has(text)), [], name);
  }
  const call = (method: string) => other.evaluate(async (path) => {
    const answer = await fetch(`/tessera.v1.${path}`, { method: 'POST', headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1' }, body: new Uint8Array(5) });
    const text = new TextDecoder().decode(await answer.arrayBuffer());
    return Number(answer.headers.get('grpc-status') ?? /grpc-status: ?(\d+)/.exec(text)?.[1] ?? -1);
  }, method);
  const permissionDenied = 7;
  for (const method of ['VolumeService/CreateVolume', 'VolumeService/DeleteVolume', 'AuthService/CreateUser', 'RepairService/StartDrain', 'AlertService/CreateSilence',
    'OperationService/CancelOperation', 'TopologyService/DeleteSds', 'AuditService/ListAuditEntries']) assert.equal(await call(method), permissionDenied, method);
  assert.equal(await call('VolumeService/ListVolumes'), 0);
  assert.deepEqual(other.watch.faults, []);
};

const sessionExpiry = async (stage: Stage) => {
  const page = await admin(stage);
  const victim = await admin(stage);
  await goTo(victim, '#/monitoring?span=21600000');
  await goTo(page, '#/users?tab=sessions');
  const rows = page.locator('tbody tr');
  // The newest session besides one's own is the other one's.
  await rows.filter({ hasNotText: 'this one' }).first().getByRole('button', { name: /^End session/ }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'End session' }).click();
  await victim.getByText('Your session is over').waitFor();
  await enter(victim, 'admin', stage.adminPassword);
  await victim.getByRole('heading', { level: 1, name: 'Monitoring' }).waitFor();
  assert.match(victim.url(), /#\/monitoring\?span=21600000$/);
  assert.equal(await page.getByRole('heading', { level: 1 }).textContent(), 'Users');
};

const twoTabs = async (stage: Stage) => {
  await stage.ask('wait until nobody watches');
  const first = await admin(stage);
  const second = await openPage(first.context(), stage.origin);
  await second.goto(`${stage.origin}/#/volumes`);
  await second.locator('.stream-mark.live').waitFor();
  assert.equal(Number(await stage.ask('streams')), 1, 'two tabs have more than one stream');
  await goTo(first, '#/volumes');
  await stage.ask('create from-the-shell');
  for (const page of [first, second]) await page.getByRole('link', { name: 'from-the-shell' }).waitFor();
  await first.locator('.user-menu summary').click();
  await first.getByRole('button', { name: 'Sign out' }).click();
  await second.getByRole('heading', { name: 'Sign in' }).waitFor();
};

const thousandVolumes = async (stage: Stage) => {
  const count = await stage.ask('thousand volumes');
  const page = await admin(stage);
  const session = await startMeasuring(page);
  await goTo(page, '#/volumes');
  await page.getByText(/^1,\d\d\d shown$/).waitFor();
  for (const [name, cost] of await costsOfVolumeList(page, session)) {
    stage.say(`cost ${cost.toFixed(1)} ${name}`);
  }
  stage.say(`volumes ${count}`);
  const context = await stage.browser.newContext();
  const fresh = await openPage(context, stage.origin);
  await fresh.goto(stage.origin);
  await fresh.getByRole('heading', { name: 'Sign in' }).waitFor();
  const paint = await fresh.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0);
  stage.say(`first-view ${paint.toFixed(0)}`);
};

/** Pictures for the documentation, and what axe says of pages with real content. */
const pictures = async (stage: Stage) => {
  const folder = process.env['SCREENSHOTS'] ?? '';
  const volume = await stage.ask('a volume for pictures');
  const shown: [string, string][] = [...allPages.filter(([name]) => !/^(topology-device|volumes-trash|settings-)/.test(name)), ['volume', `#/volumes/${volume}`],
    ['volume-latency', `#/volumes/${volume}?tab=latency`]];
  const faults: string[] = [];
  for (const theme of ['light', 'dark'] as const) {
    const signedOut = await open(stage, { colorScheme: theme });
    await signedOut.goto(stage.origin);
    await signedOut.getByRole('heading', { name: 'Sign in' }).waitFor();
    const picture = async (page: Page, name: string) => {
      if (!folder) return;
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, `${name}-${theme}.png`), shrinkPng(await page.screenshot()));
    };
    await picture(signedOut, 'sign-in');
    const page = await admin(stage, { colorScheme: theme });
    for (const [name, hash] of shown) {
      await goTo(page, hash);
      await picture(page, name);
      faults.push(...(await accessibilityFaults(page)).map((fault) => `${name}: ${fault}`));
    }
    await goTo(page, '#/volumes');
    await page.getByRole('button', { name: 'Create volume' }).click();
    await page.getByRole('dialog').getByLabel('Name').fill('orders');
    await page.getByRole('dialog').getByLabel('Size').fill('100GiB');
    await picture(page, 'create-volume');
    faults.push(...page.watch.faults);
    await page.context().close();
  }
  assert.deepEqual(faults, []);
};

export const scenarios: Record<string, (stage: Stage) => Promise<void>> = {
  signInFirst, volumeLife, killedServer, rebuild, viewer, sessionExpiry, twoTabs, thousandVolumes, pictures,
};
