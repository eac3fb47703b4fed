import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConsoleStream, silenceMs, type StreamStatus } from '../../src/api/stream';

/** A clock that moves when it is told to, and streams that a test feeds. */
class World {
  now = 1_000_000;
  timers = new Map<number, { at: number; callback: () => void }>();
  statuses: StreamStatus[] = [];
  messages: string[] = [];
  opened: Feed[] = [];
  private ids = 0;
  stream = new ConsoleStream<string>({
    open: (signal) => {
      const feed = new Feed(signal);
      this.opened.push(feed);
      return feed.read();
    },
    isSessionOver: (error) => error instanceof Error && error.message === 'session over',
    onStatus: (status) => this.statuses.push(status),
    onMessage: (message) => this.messages.push(message),
    now: () => this.now,
    after: (ms, callback) => {
      const id = (this.ids += 1);
      this.timers.set(id, { at: this.now + ms, callback });
      return () => void this.timers.delete(id);
    },
    random: () => 0.5,
  });

  get last(): Feed {
    const feed = this.opened.at(-1);
    assert.ok(feed);
    return feed;
  }
  get status(): StreamStatus | undefined {
    return this.statuses.at(-1);
  }

  /** The status, which has to be "lost". */
  lost(): Extract<StreamStatus, { state: 'lost' }> {
    const { status } = this;
    assert.ok(status?.state === 'lost');
    return status;
  }

  /** Lets everything that waits for a promise go on. */
  async settle(): Promise<void> {
    for (let turns = 0; turns < 20; turns += 1) await Promise.resolve();
  }

  async pass(ms: number): Promise<void> {
    this.now += ms;
    for (const [id, { at, callback }] of [...this.timers]) {
      if (at > this.now) continue;
      this.timers.delete(id);
      callback();
    }
    await this.settle();
  }
}

class Feed {
  private wake = () => {};
  private queue: (() => string | undefined)[] = [];
  constructor(readonly signal: AbortSignal) {
    signal.addEventListener('abort', () => this.fail(new Error('aborted')));
  }
  send(text: string): void {
    this.push(() => text);
  }
  fail(error: Error): void {
    this.push(() => { throw error; });
  }
  private push(entry: () => string | undefined): void {
    this.queue.push(entry);
    this.wake();
  }
  async *read(): AsyncGenerator<string> {
    for (;;) {
      const entry = this.queue.shift();
      if (entry) {
        const text = entry();
        if (text === undefined) return;
        yield text;
      } else {
        await new Promise<void>((resolve) => { this.wake = resolve; });
      }
    }
  }
}

test('The stream is live with its first message, and messages come in order', async () => {
  const world = new World();
  world.stream.restart();
  await world.settle();
  assert.deepEqual(world.statuses, [{ state: 'connecting' }]);
  world.last.send('a');
  world.last.send('b');
  await world.settle();
  assert.deepEqual(world.messages, ['a', 'b']);
  assert.equal(world.status?.state, 'live');
});

test('A lost stream says since when nothing was heard, and is opened again after growing pauses up to 15 s', async () => {
  const world = new World();
  world.stream.restart();
  await world.settle();
  world.last.send('a');
  await world.settle();
  const heard = world.now;
  await world.pass(7000);
  const pauses: number[] = [];
  for (let turn = 0; turn < 8; turn += 1) {
    world.last.fail(new Error('gone'));
    await world.settle();
    const status = world.lost();
    assert.equal(status.sinceMs, heard);
    pauses.push(status.retryAtMs - world.now);
    const before = world.opened.length;
    await world.pass(pauses.at(-1) ?? 0);
    assert.equal(world.opened.length, before + 1);
  }
  assert.deepEqual(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
  world.last.send('back');
  await world.settle();
  assert.equal(world.status?.state, 'live');
  world.last.fail(new Error('gone'));
  await world.settle();
  assert.equal(world.lost().retryAtMs - world.now, 500, 'the pause did not begin anew after a message');
});

test('A stream on which nothing is heard for 40 s is given up', async () => {
  const world = new World();
  world.stream.restart();
  await world.settle();
  world.last.send('a');
  await world.settle();
  await world.pass(silenceMs - 1);
  assert.equal(world.status?.state, 'live');
  await world.pass(1);
  assert.equal(world.lost().reason, 'nothing was heard for too long');
  assert.ok(world.opened[0]?.signal.aborted);
});

test('When the session is over it is not opened again until somebody signs in', async () => {
  const world = new World();
  world.stream.restart();
  await world.settle();
  world.last.fail(new Error('session over'));
  await world.settle();
  assert.deepEqual(world.status, { state: 'signed-out' });
  await world.pass(1_000_000);
  assert.equal(world.opened.length, 1);
  world.stream.restart();
  await world.settle();
  assert.equal(world.opened.length, 2);
});

test('"Try now" opens a lost stream at once, and leaves one that is open alone', async () => {
  const world = new World();
  world.stream.restart();
  await world.settle();
  world.stream.retryNow();
  await world.settle();
  assert.equal(world.opened.length, 1);
  world.last.fail(new Error('gone'));
  await world.settle();
  world.stream.retryNow();
  await world.settle();
  assert.equal(world.opened.length, 2);
  await world.pass(600);
  assert.equal(world.opened.length, 2, 'the pause that was waited for opened another one');
});

test('A stream that was stopped says nothing any more', async () => {
  const world = new World();
  world.stream.restart();
  await world.settle();
  world.stream.stop();
  await world.settle();
  await world.pass(100_000);
  assert.deepEqual(world.statuses, [{ state: 'connecting' }]);
  assert.equal(world.opened.length, 1);
});
