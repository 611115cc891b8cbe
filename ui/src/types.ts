// What the API answers with, as far as the dashboard shows it. Times are RFC 3339.

export type Role = 'viewer' | 'user' | 'admin';

export interface Whoami {
  name: string;
  role: Role;
}

export interface Sandbox {
  id: string;
  name: string;
  state: 'created' | 'starting' | 'running' | 'paused' | 'stopped' | 'unknown';
  reason?: string;
  since?: string | null;
  warnings: string[];
  /** While it runs. */
  usage?: Usage;
  sessions: number;
  driver: string;
  runtime: string;
  image: string;
  user?: string;
  memory_bytes?: number;
  cpus?: number;
  disk_bytes?: number;
  mounts: string[];
  network: string;
  engine?: string;
  adopted?: string;
  link?: string;
  created_at: string;
}

/** What its driver cannot tell is not there. */
export interface Usage {
  memory_bytes?: number;
  memory_limit_bytes?: number;
  /** Since its start, over all cores. */
  cpu_seconds?: number;
  processes?: number;
  processes_limit?: number;
}

export interface NewSandbox {
  name: string;
  driver?: string;
  image?: string;
  user?: string;
  memory_bytes?: number;
  cpus?: number;
  disk_bytes?: number;
  network?: string;
  env?: [string, string][];
}

export const SCOPES = ['shell', 'exec', 'sftp', 'forward', 'agent'] as const;
export type Scope = (typeof SCOPES)[number];

export interface Token {
  id: string;
  prefix: string;
  label: string;
  sandbox: string;
  state: 'active' | 'expired' | 'revoked';
  scopes: Scope[];
  /** Networks; none means from anywhere. */
  sources?: string[];
  files?: { root?: string; read_only?: boolean };
  record?: string | null;
  created_at: string;
  expires_at: string;
  last_used_at?: string | null;
}

export interface NewToken {
  sandbox: string;
  ttl_seconds?: number;
  scopes?: Scope[];
  label?: string;
  /** What is recorded of its sessions; left out, the gateway's own setting holds. */
  record?: string;
}

export interface TokenCreated {
  id: string;
  token: string;
  expires_at: string;
  ssh_command: string;
}

export interface Session {
  id: string;
  sandbox: string;
  kind: string;
  pty: boolean;
  credential: string;
  client?: string | null;
  started_at: string;
  bytes_in: number;
  bytes_out: number;
  terminal?: string | null;
  recording?: string | null;
}

export interface AuditEntry {
  id: number | string;
  at: string;
  action: string;
  sandbox?: string | null;
  actor?: string | null;
  client?: string | null;
  detail?: string | null;
}

export interface AuditPage {
  entries: AuditEntry[];
  next: number | string | null;
}

export interface Recording {
  id: string;
  sandbox: string;
  session: string;
  kind: 'terminal' | 'exec' | 'sftp' | 'scp' | 'forward';
  started_at: string;
  seconds: number;
  bytes: number;
  complete: boolean;
  format: 'asciicast-v3' | 'timeline';
}

export interface RecordingPage {
  recordings: Recording[];
  next: number | string | null;
}

export interface Verified {
  valid: boolean;
  detail?: string | null;
}

export interface ApiKey {
  id: string;
  name: string;
  role: Role;
  prefix?: string;
  created_at: string;
  expires_at?: string | null;
  last_used_at?: string | null;
}

export interface ApiKeyCreated {
  id: string;
  key: string;
}

export interface Image {
  name: string;
  digest: string;
  size: number;
  platform: string;
  added_at: string;
}

export interface PublicKey {
  id: string;
  name: string;
  fingerprint: string;
  public_key: string;
  /** `null` means every one. */
  sandboxes: string[] | null;
  cert_authority?: unknown;
  created_at: string;
  last_used_at: string | null;
}

export interface NewPublicKey {
  name: string;
  public_key: string;
  sandboxes: string[];
}

export interface Status {
  version: string;
  pid: number;
  started_at: string;
  ssh_listen: string;
  ssh_host: string;
  ssh_port: number;
  host_keys: string[];
  connections: number;
  sessions: number;
}

export interface TerminalTicket {
  ticket: string;
  expires_in: number;
}

export interface NewTerminal extends TerminalTicket {
  terminal: string;
}

export interface TerminalView {
  id: string;
  sandbox: string;
  session: string;
  attached: boolean;
  watchers: number;
  cols: number;
  rows: number;
  started_at: string;
}

export interface Size {
  cols: number;
  rows: number;
  xpixel: number;
  ypixel: number;
}
