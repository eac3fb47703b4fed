// What an interaction costs the page's main thread.
import type { CDPSession, Page } from 'playwright-core';

/** Counts the main thread's own processor time: other programs on the machine do not count. */
export async function startMeasuring(page: Page): Promise<CDPSession> {
  const session = await page.context().newCDPSession(page);
  await session.send('Performance.enable', { timeDomain: 'threadTicks' });
  return session;
}

export async function metric(session: CDPSession, name: string): Promise<number> {
  const { metrics } = await session.send('Performance.getMetrics');
  return metrics.find((one) => one.name === name)?.value ?? 0;
}

const drawn = (page: Page) => page.evaluate(() => new Promise<void>((done) => { requestAnimationFrame(() => requestAnimationFrame(() => done())); }));

/** Scripts, styles and layout that one interaction causes, until it is drawn, in milliseconds. */
export async function costMs(page: Page, session: CDPSession, act: () => Promise<unknown>): Promise<number> {
  await drawn(page);
  const before = await metric(session, 'TaskDuration');
  await act();
  await drawn(page);
  return 1000 * (await metric(session, 'TaskDuration') - before);
}

/** What people do with a long list of volumes, and what each costs. */
export async function costsOfVolumeList(page: Page, session: CDPSession): Promise<[string, number][]> {
  const press = (selector: string) => costMs(page, session, () => page.evaluate((wanted) => document.querySelector<HTMLElement>(wanted)?.click(), selector));
  const key = async (text: string) => {
    await page.locator('input[type=search]').focus();
    return costMs(page, session, () => page.keyboard.press(text));
  };
  return [
    ['sort by size', await press('th:nth-child(3) button')], ['sort the other way', await press('th:nth-child(3) button')],
    ['next page', await press('.pager button:last-child')], ['choose all of a page', await press('th.choose input')],
    ['first letter of a search', await key('v')], ['second letter', await key('m')], ['third letter', await key('-')],
    ['open a dialog', await press('.page-head button.primary')],
  ];
}
