// Follows WatchConsole for as long as it takes: opens it, passes its messages on, and when it is lost opens it again
// after a growing pause. No rendering, no globals: it runs in the SharedWorker as well as in a page and in tests.

export type StreamStatus =
  | { state: 'connecting' }
  | { state: 'live' }
  /** Lost at `sinceMs`; what was shown since is old. Opened again at `retryAtMs`. */
  | { state: 'lost'; sinceMs: number; retryAtMs: number; reason: string }
  /** The session is over: it is not opened again before restart(). */
  | { state: 'signed-out' };

export interface StreamOptions<M> {
  open(signal: AbortSignal): AsyncIterable<M>;
  isSessionOver(error: unknown): boolean;
  onStatus(status: StreamStatus): void;
  onMessage(message: M): void;
  now(): number;
  /** Calls back once after `ms`; the returned function takes it back. */
  after(ms: number, callback: () => void): () => void;
  /** 0 to 1, to spread browsers that were all cut off at one moment. */
  random(): number;
}

const firstPauseMs = 500;
const longestPauseMs = 15_000;
/** A heartbeat comes each 15 s: two that are missing, and the stream is dead. */
export const silenceMs = 40_000;

export class ConsoleStream<M> {
  private abort: AbortController | null = null;
  private takeBack: () => void = () => {};
  private pauseMs = firstPauseMs;
  private lastHeardMs: number;
  private wasLive = false;

  constructor(private readonly options: StreamOptions<M>) {
    this.lastHeardMs = options.now();
  }

  /** Opens the stream, anew if it is open. */
  restart(): void {
    this.stop();
    this.pauseMs = firstPauseMs;
    this.options.onStatus({ state: 'connecting' });
    void this.run();
  }

  /** Opens it now if it is lost and would be opened later. */
  retryNow(): void {
    if (this.abort === null) {
      this.takeBack();
      void this.run();
    }
  }

  stop(): void {
    this.takeBack();
    const abort = this.abort;
    this.abort = null;
    this.wasLive = false;
    abort?.abort();
  }

  private async run(): Promise<void> {
    const abort = new AbortController();
    this.abort = abort;
    let reason = 'the server ended the stream';
    let silent = false;
    const watchSilence = () => {
      this.takeBack();
      this.takeBack = this.options.after(silenceMs, () => {
        silent = true;
        abort.abort();
      });
    };
    watchSilence();
    try {
      for await (const message of this.options.open(abort.signal)) {
        if (this.abort !== abort) return;
        watchSilence();
        this.heard();
        this.options.onMessage(message);
      }
    } catch (error) {
      if (this.abort !== abort) return;
      if (this.options.isSessionOver(error)) {
        this.stop();
        this.options.onStatus({ state: 'signed-out' });
        return;
      }
      reason = silent ? 'nothing was heard for too long' : error instanceof Error ? error.message : String(error);
    }
    if (this.abort !== abort) return;
    this.lost(reason);
  }

  private heard(): void {
    this.lastHeardMs = this.options.now();
    this.pauseMs = firstPauseMs;
    if (!this.wasLive) {
      this.wasLive = true;
      this.options.onStatus({ state: 'live' });
    }
  }

  private lost(reason: string): void {
    this.takeBack();
    this.abort = null;
    this.wasLive = false;
    const pause = this.pauseMs * (0.75 + this.options.random() / 2);
    this.pauseMs = Math.min(this.pauseMs * 2, longestPauseMs);
    const retryAtMs = this.options.now() + pause;
    this.options.onStatus({ state: 'lost', sinceMs: this.lastHeardMs, retryAtMs, reason });
    this.takeBack = this.options.after(pause, () => void this.run());
  }
}
