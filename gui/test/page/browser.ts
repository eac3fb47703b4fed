// A headless Chromium for tests of pages, and what every one of them does with it.
import AxeSource from 'axe-core';
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page } from 'playwright-core';
import { existsSync } from 'node:fs';
import { FakeMgmt } from '../fake/server';

export const consoleFolder = process.env['CONSOLE_DIR'] ?? '';
/** Bounds are for a console that is stuck, not for a slow machine. */
export const patienceMs = Number(process.env['PATIENCE_MS'] ?? 120_000);

export function chromiumPath(): string {
  const found = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
    .find((path) => path !== undefined && existsSync(path));
  if (!found) throw new Error('no chromium found: install it, or name it in $CHROMIUM');
  return found;
}

export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: chromiumPath(), headless: true, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
}

export interface Watch {
  /** What the page complained of, and requests that left the origin. */
  faults: string[];
}

/** A page that notes errors of scripts, of the policy, and requests to anybody else. */
export async function openPage(context: BrowserContext, origin: string, watch: Watch = { faults: [] }): Promise<Page & { watch: Watch }> {
  const page = await context.newPage();
  page.setDefaultTimeout(patienceMs);
  page.on('pageerror', (error) => watch.faults.push(`script: ${error.message}`));
  page.on('console', (message) => {
    // The browser itself logs every answer of 4xx; connection losses are parts of tests.
    if (message.type() === 'error' && !/Failed to load resource|ERR_/.test(message.text())) watch.faults.push(`console: ${message.text()}`);
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) watch.faults.push(`request to ${request.url()}`);
  });
  return Object.assign(page, { watch });
}

export async function signIn(page: Page, origin: string, userName = 'ada', password = 'correct horse'): Promise<void> {
  await page.goto(origin);
  await page.getByLabel('Name').fill(userName);
  await page.getByLabel('Password', { exact: true }).fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { level: 1, name: 'Dashboard' }).waitFor();
}

/** Everything that one test needs; ended with stop(). */
export class Stage {
  private constructor(readonly browser: Browser, readonly mgmt: FakeMgmt, readonly origin: string) {}

  static async start(): Promise<Stage> {
    const mgmt = new FakeMgmt(consoleFolder);
    return new Stage(await launch(), mgmt, await mgmt.start());
  }

  async stop(): Promise<void> {
    await this.browser.close();
    await this.mgmt.stop();
  }

  /** A signed-in page in a browser profile of its own. */
  async page(options: BrowserContextOptions & { as?: string } = {}): Promise<Page & { watch: Watch }> {
    const { as = 'ada', ...rest } = options;
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 800 }, ...rest });
    const page = await openPage(context, this.origin);
    await signIn(page, this.origin, as);
    return page;
  }
}

/** Goes to a page of the console and waits until what it reads is there. */
export async function goTo(page: Page, hash: string): Promise<void> {
  await page.evaluate((next) => { location.hash = next; }, hash);
  await page.waitForFunction(() => document.querySelector('main h1') !== null && document.querySelector('.skeleton') === null);
  // Two frames: what was set is drawn.
  await page.evaluate(() => new Promise<void>((done) => { requestAnimationFrame(() => requestAnimationFrame(() => done())); }));
}

/** Serious and critical faults that axe finds, each in one line. */
export async function accessibilityFaults(page: Page): Promise<string[]> {
  // By the debugger, which the policy does not bind.
  await page.evaluate(AxeSource.source);
  return page.evaluate(async () => {
    const axe = (window as unknown as { axe: typeof AxeSource }).axe;
    const { violations } = await axe.run(document, { resultTypes: ['violations'] });
    return violations.filter(({ impact }) => impact === 'serious' || impact === 'critical').flatMap(({ id, nodes }) =>
      nodes.slice(0, 3).map((node) => `${id}: ${node.html.slice(0, 160)} ${node.failureSummary?.split('\n')[1]?.trim() ?? ''}`));
  });
}

/** Pages of the console, all of them, with their tabs. */
export const allPages: [string, string][] = [
  ['dashboard', '#/'], ['topology', '#/topology'], ['topology-server', '#/topology?show=sds%2F1'], ['topology-device', '#/topology?show=device%2F1'],
  ['volumes', '#/volumes'], ['volumes-snapshots', '#/volumes?tab=snapshots'], ['volumes-schedules', '#/volumes?tab=schedules'], ['volumes-trash', '#/volumes?tab=trash'],
  ['health', '#/health'], ['alerts', '#/alerts'], ['alerts-history', '#/alerts?tab=history'], ['alerts-silences', '#/alerts?tab=silences'], ['alerts-rules', '#/alerts?tab=rules'],
  ['monitoring', '#/monitoring'], ['operations', '#/operations'], ['users', '#/users'], ['users-sessions', '#/users?tab=sessions'], ['users-tokens', '#/users?tab=tokens'],
  ['audit', '#/audit'], ['settings', '#/settings'], ['settings-versions', '#/settings?tab=versions'], ['settings-password', '#/settings?tab=password'],
];
