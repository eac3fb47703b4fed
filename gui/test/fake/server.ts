// A server as MGMT is to a browser: the built console, and gRPC-Web at the same origin with the session in a cookie. A
// double for tests of pages only.
import { getOption } from '@bufbuild/protobuf';
import { Code, ConnectError, createContextValues, type Interceptor } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { randomUUID } from 'node:crypto';
import { readFileSync, existsSync, statSync } from 'node:fs';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { extname, join, normalize } from 'node:path';
import { access, Role } from '../../src/gen/tessera/v1/access_pb';
import type { User } from '../../src/gen/tessera/v1/auth_pb';
import { mayCall } from '../../src/store/access';
import { Hub, reasonError, registerServices, secretKey, type Sessions } from './services';
import { World } from './world';

const types: Record<string, string> = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css',
  '.svg': 'image/svg+xml', '.ico': 'image/x-icon', '.txt': 'text/plain' };
export const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; "
  + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

class SessionTable implements Sessions {
  private users = new Map<string, User>();
  userOf = (secret: string) => this.users.get(secret);
  begin(user: User): string {
    const secret = `session.${this.users.size + 1}.${randomUUID()}`;
    this.users.set(secret, user);
    return secret;
  }
  end(secret: string): void {
    this.users.delete(secret);
  }
  endAll(): void {
    this.users.clear();
  }
}

export class FakeMgmt {
  readonly world = new World();
  readonly hub = new Hub();
  readonly sessions = new SessionTable();
  /** Methods that were called, in order. */
  readonly calls: string[] = [];
  private server: Server;
  private sockets = new Set<Socket>();

  constructor(private readonly folder: string) {
    const enforce: Interceptor = (next) => async (request) => {
      this.calls.push(`${request.service.typeName}/${request.method.name}`);
      const roles = getOption(request.method, access).roles;
      if (!roles.includes(Role.ANYONE)) {
        const user = this.sessions.userOf(request.contextValues.get(secretKey));
        if (!user) throw reasonError(Code.Unauthenticated, 'SESSION_EXPIRED', 'the session is over');
        const role = user.passwordChangeRequired ? Role.NEWCOMER : user.role;
        if (!mayCall(role, request.method)) throw new ConnectError(`${request.method.name} is not for the role ${Role[role]}`, Code.PermissionDenied);
      }
      return next(request);
    };
    const rpc = connectNodeAdapter({
      routes: (router) => registerServices(router, this.world, this.sessions, this.hub), interceptors: [enforce],
      connect: false, grpc: false, fallback: (request, response) => this.serveFile(request.url ?? '/', response as ServerResponse),
      contextValues: (request) => createContextValues().set(secretKey, /tessera-session=([^;]*)/.exec(request.headers.cookie ?? '')?.[1] ?? ''),
    });
    this.server = createServer(rpc);
    this.server.on('connection', (socket) => {
      this.sockets.add(socket);
      socket.on('close', () => this.sockets.delete(socket));
    });
  }

  async start(port = 0): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(port, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise<void>((resolve) => this.server.close(() => resolve()));
  }

  /** Sends the present overview to those who watch, as each poll does. */
  poll(): void {
    this.hub.send({ case: 'overview', value: this.world.overview() });
  }

  /** Ends all sessions, and the streams with them. */
  expireSessions(): void {
    this.sessions.endAll();
    this.poll();
  }

  private serveFile(url: string, response: ServerResponse): void {
    const path = new URL(url, 'http://host').pathname;
    const file = join(this.folder, normalize(path === '/' ? '/index.html' : path));
    if (!file.startsWith(this.folder) || !existsSync(`${file}.gz`) || !statSync(file).isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': types[extname(file)] ?? 'application/octet-stream', 'content-encoding': 'gzip',
      'content-security-policy': policy, 'x-content-type-options': 'nosniff',
      'cache-control': path.startsWith('/assets/') ? 'public, max-age=31536000, immutable' : 'no-cache' });
    response.end(readFileSync(`${file}.gz`));
  }
}
