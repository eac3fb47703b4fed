// People, their sessions, and API tokens of scripts. Who is no admin sees what is their own.
import { changeRole, createToken, createUser, deleteUser, endSession, lockUser, resetPassword, revokeToken } from '../api/actions/people_actions';
import { auth } from '../api/clients';
import { ActionButton } from '../components/ActionButton';
import { Age, Badge, Empty, Loaded, PageHead, Tabs } from '../components/basics';
import { Table } from '../components/Table';
import { Role } from '../gen/tessera/v1/access_pb';
import { AuthService } from '../gen/tessera/v1/auth_pb';
import { roleName } from '../store/access';
import { readPages } from '../store/pages';
import { useResource } from '../store/resource';
import { linkTo, useRoute } from '../store/router';
import { useRole } from '../store/session';

const methods = AuthService.method;
const limit = 10_000;

export function UsersPage() {
  const isAdmin = useRole() === Role.ADMIN;
  const tab = useRoute().query.get('tab') ?? (isAdmin ? 'users' : 'sessions');
  return (
    <>
      <PageHead title="Users" />
      <Tabs label="People and scripts" current={tab} tabs={[
        ...(isAdmin ? [{ id: 'users', label: 'Users', href: linkTo(['users']) }] : []),
        { id: 'sessions', label: 'Sessions', href: linkTo(['users'], { tab: 'sessions' }) },
        { id: 'tokens', label: 'API tokens', href: linkTo(['users'], { tab: 'tokens' }) },
      ]} />
      {tab === 'tokens' ? <Tokens /> : tab === 'users' && isAdmin ? <Users /> : <Sessions />}
    </>
  );
}

function Users() {
  const users = useResource('users', (signal) => readPages(limit, async (pageToken) => {
    const answer = await auth.listUsers({ pageSize: 1000, pageToken }, { signal });
    return { items: answer.users, nextPageToken: answer.nextPageToken };
  }));
  return (
    <>
      <div class="toolbar"><div class="actions">
        <ActionButton primary method={methods.createUser} action={createUser} onDone={users.reload}>Add user</ActionButton>
      </div></div>
      <Loaded of={users}>
        {({ items }) => (
          <Table caption="Users" rows={items} keyOf={({ userId }) => String(userId)} sortedBy="name" columns={[
            { id: 'name', head: 'Name', sort: ({ userName }) => userName, cell: ({ userName }) => <strong>{userName}</strong> },
            { id: 'role', head: 'Role', sort: ({ role }) => role, cell: ({ role }) => roleName(role) },
            { id: 'state', head: 'State', cell: (user) => user.locked ? <Badge tone="error">locked</Badge>
              : user.passwordChangeRequired ? <Badge tone="warning">has to change the password</Badge> : <Badge tone="ok">may sign in</Badge> },
            { id: 'last', head: 'Signed in', sort: ({ lastSignInMs }) => lastSignInMs, cell: ({ lastSignInMs }) => <Age ms={lastSignInMs} /> },
            { id: 'created', head: 'Added', sort: ({ createdMs }) => createdMs, cell: ({ createdMs }) => <Age ms={createdMs} /> },
            { id: 'actions', head: 'Actions', cell: (user) => (
              <span class="row-actions">
                <ActionButton quiet method={methods.updateUser} action={() => changeRole(user)} onDone={users.reload} label={`Role of ${user.userName}`}>Role</ActionButton>
                <ActionButton quiet method={methods.updateUser} action={() => lockUser(user)} onDone={users.reload}
                  label={`${user.locked ? 'Unlock' : 'Lock'} ${user.userName}`}>{user.locked ? 'Unlock' : 'Lock'}</ActionButton>
                <ActionButton quiet method={methods.updateUser} action={() => resetPassword(user)} onDone={users.reload} label={`New password for ${user.userName}`}>New password</ActionButton>
                <ActionButton quiet method={methods.deleteUser} action={() => deleteUser(user)} onDone={users.reload} label={`Delete ${user.userName}`}>Delete</ActionButton>
              </span>) },
          ]} empty={<Empty title="There is nobody." />} />
        )}
      </Loaded>
    </>
  );
}

function Sessions() {
  const sessions = useResource('sessions', (signal) => readPages(limit, async (pageToken) => {
    const answer = await auth.listSessions({ pageSize: 1000, pageToken }, { signal });
    return { items: answer.sessions, nextPageToken: answer.nextPageToken };
  }));
  return (
    <Loaded of={sessions}>
      {({ items }) => (
        <Table caption="Sessions" rows={items} keyOf={({ sessionId }) => String(sessionId)} columns={[
          { id: 'user', head: 'User', sort: ({ userName }) => userName, cell: ({ userName, current }) => <><strong>{userName}</strong> {current && <Badge tone="info">this one</Badge>}</> },
          { id: 'peer', head: 'From', sort: ({ peer }) => peer, cell: ({ peer }) => peer },
          { id: 'agent', head: 'Browser', cell: ({ userAgent }) => <span class="wrap">{userAgent}</span> },
          { id: 'begun', head: 'Begun', sort: ({ createdMs }) => createdMs, cell: ({ createdMs }) => <Age ms={createdMs} /> },
          { id: 'used', head: 'Used', sort: ({ lastUsedMs }) => lastUsedMs, cell: ({ lastUsedMs }) => <Age ms={lastUsedMs} /> },
          { id: 'ends', head: 'Ends', sort: ({ expiresMs }) => expiresMs, cell: ({ expiresMs }) => <Age ms={expiresMs} /> },
          { id: 'actions', head: 'Actions', cell: (session) => (
            <ActionButton quiet method={methods.endSession} action={() => endSession(session)} onDone={sessions.reload}
              label={`End session of ${session.userName} from ${session.peer}`}>End</ActionButton>) },
        ]} empty={<Empty title="There is no session." />} />
      )}
    </Loaded>
  );
}

function Tokens() {
  const role = useRole();
  const tokens = useResource('tokens', (signal) => readPages(limit, async (pageToken) => {
    const answer = await auth.listApiTokens({ pageSize: 1000, pageToken }, { signal });
    return { items: answer.apiTokens, nextPageToken: answer.nextPageToken };
  }));
  return (
    <>
      <div class="toolbar"><div class="actions">
        <ActionButton primary method={methods.createApiToken} action={() => createToken(role)} onDone={tokens.reload}>Make token</ActionButton>
      </div></div>
      <Loaded of={tokens}>
        {({ items }) => (
          <Table caption="API tokens" rows={items} keyOf={({ apiTokenId }) => String(apiTokenId)} columns={[
            { id: 'what', head: 'For', sort: ({ description }) => description, cell: ({ description }) => <strong>{description}</strong> },
            { id: 'user', head: 'User', sort: ({ userName }) => userName, cell: ({ userName }) => userName },
            { id: 'role', head: 'Role', sort: ({ role: one }) => one, cell: ({ role: one }) => roleName(one) },
            { id: 'used', head: 'Used', sort: ({ lastUsedMs }) => lastUsedMs, cell: ({ lastUsedMs }) => <Age ms={lastUsedMs} /> },
            { id: 'expires', head: 'Expires', sort: ({ expiresMs }) => expiresMs, cell: ({ expiresMs }) => <Age ms={expiresMs} /> },
            { id: 'actions', head: 'Actions', cell: (token) => (
              <ActionButton quiet method={methods.revokeApiToken} action={() => revokeToken(token)} onDone={tokens.reload} label={`Revoke ${token.description}`}>Revoke</ActionButton>) },
          ]} empty={<Empty title="There are no API tokens.">Scripts use them with tessera, grpcurl and the API.</Empty>} />
        )}
      </Loaded>
    </>
  );
}
