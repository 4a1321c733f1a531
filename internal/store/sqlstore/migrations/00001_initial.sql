-- The first schema. {text} and {now} are filled in by the dialect; everything
-- else is one text for SQLite and PostgreSQL. Times are UTC microseconds,
-- booleans 0 or 1, digests "sha256:<hex>" or empty, spec, error, artifact,
-- config and plan JSON.

-- +goose Up
CREATE TABLE teams (
  id         {text} PRIMARY KEY,
  name       {text} NOT NULL UNIQUE,
  created_at BIGINT NOT NULL
);

INSERT INTO teams (id, name, created_at) VALUES
  ('team-00000000000000000000000000', 'platform', {now}),
  ('team-00000000000000000000000001', 'default', {now});

CREATE TABLE api_keys (
  id          {text} PRIMARY KEY,
  team_id     {text} NOT NULL REFERENCES teams (id),
  name        {text} NOT NULL,
  prefix      {text} NOT NULL,
  admin       BIGINT NOT NULL CHECK (admin IN (0, 1)),
  secret_hash {text} NOT NULL UNIQUE,
  created_at  BIGINT NOT NULL,
  revoked_at  BIGINT
);
CREATE INDEX api_keys_by_team ON api_keys (team_id, id);

CREATE TABLE hosts (
  id            {text} PRIMARY KEY,
  team_id       {text} NOT NULL REFERENCES teams (id),
  name          {text} NOT NULL,
  state         {text} NOT NULL CHECK (state IN ('joining', 'ready', 'draining', 'unreachable', 'removed')),
  platform      {text} NOT NULL,
  engine_digest {text} NOT NULL,
  vcpus         BIGINT NOT NULL,
  memory_mb     BIGINT NOT NULL,
  disk_mb       BIGINT NOT NULL,
  seen_at       BIGINT NOT NULL
);

-- A template without tags is invisible; its row keeps the name's id for the
-- builds that were made for it.
CREATE TABLE templates (
  id         {text} PRIMARY KEY,
  team_id    {text} NOT NULL REFERENCES teams (id),
  name       {text} NOT NULL,
  created_at BIGINT NOT NULL,
  UNIQUE (team_id, name)
);
CREATE INDEX templates_by_name ON templates (name);

CREATE TABLE template_builds (
  id              {text} PRIMARY KEY,
  team_id         {text} NOT NULL REFERENCES teams (id),
  template_id     {text} NOT NULL REFERENCES templates (id),
  name            {text} NOT NULL,
  tag             {text} NOT NULL,
  spec            {text} NOT NULL,
  recipe_schema   BIGINT NOT NULL,
  idempotency_key {text},
  spec_digest     {text} NOT NULL,
  priority        BIGINT NOT NULL,
  status          {text} NOT NULL CHECK (status IN ('pending', 'running', 'success', 'failed', 'cancelled')),
  attempt         BIGINT NOT NULL DEFAULT 0 CHECK (attempt >= 0),
  lost_attempts   BIGINT NOT NULL DEFAULT 0 CHECK (lost_attempts BETWEEN 0 AND attempt),
  cleaned_attempt BIGINT NOT NULL DEFAULT 0 CHECK (cleaned_attempt BETWEEN 0 AND attempt),
  base_digest     {text} NOT NULL,
  current_step    BIGINT NOT NULL DEFAULT 0,
  total_steps     BIGINT NOT NULL,
  next_seq        BIGINT NOT NULL DEFAULT 1 CHECK (next_seq > 0),
  log_bytes       BIGINT NOT NULL DEFAULT 0,
  log_capped      BIGINT NOT NULL DEFAULT 0 CHECK (log_capped IN (0, 1)),
  log_expired     BIGINT NOT NULL DEFAULT 0 CHECK (log_expired IN (0, 1)),
  error           {text},
  artifact        {text},
  created_at      BIGINT NOT NULL,
  queued_at       BIGINT NOT NULL,
  started_at      BIGINT,
  completed_at    BIGINT,
  CHECK ((completed_at IS NULL) = (status IN ('pending', 'running'))),
  CHECK ((artifact IS NULL) = (status <> 'success')),
  CHECK ((error IS NULL) = (status <> 'failed'))
);
CREATE UNIQUE INDEX template_builds_by_key ON template_builds (team_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX template_builds_by_team ON template_builds (team_id, id);
CREATE INDEX template_builds_by_name ON template_builds (name, id);
CREATE INDEX template_builds_by_status ON template_builds (status, id);
CREATE INDEX template_builds_by_template ON template_builds (template_id);
CREATE INDEX template_builds_pending ON template_builds (team_id, priority DESC, id) WHERE status = 'pending';
CREATE INDEX template_builds_running ON template_builds (team_id) WHERE status = 'running';
CREATE INDEX template_builds_logged ON template_builds (completed_at) WHERE log_expired = 0;

-- Hosts and sandboxes are named before they exist and outlive neither, so they
-- are not references.
CREATE TABLE build_attempts (
  build_id      {text} NOT NULL REFERENCES template_builds (id),
  number        BIGINT NOT NULL CHECK (number > 0),
  team_id       {text} NOT NULL REFERENCES teams (id),
  worker        {text} NOT NULL,
  host_id       {text},
  sandbox_id    {text},
  lease_ends_at BIGINT NOT NULL,
  started_at    BIGINT NOT NULL,
  ended_at      BIGINT,
  ended_as      {text} CHECK (ended_as IN ('success', 'failed', 'cancelled', 'lost', 'returned')),
  cleaned_at    BIGINT,
  PRIMARY KEY (build_id, number),
  CHECK ((ended_at IS NULL) = (ended_as IS NULL)),
  CHECK (cleaned_at IS NULL OR ended_at IS NOT NULL)
);
CREATE UNIQUE INDEX build_attempts_live ON build_attempts (build_id) WHERE ended_at IS NULL;
CREATE INDEX build_attempts_lease ON build_attempts (lease_ends_at) WHERE ended_at IS NULL;
CREATE INDEX build_attempts_unclean ON build_attempts (ended_at) WHERE cleaned_at IS NULL AND ended_at IS NOT NULL;

CREATE TABLE build_steps (
  build_id     {text} NOT NULL,
  attempt      BIGINT NOT NULL,
  step         BIGINT NOT NULL CHECK (step > 0),
  team_id      {text} NOT NULL REFERENCES teams (id),
  phase        {text} NOT NULL CHECK (phase IN ('pre-build', 'recipe', 'post-build', 'healthcheck', 'publish')),
  cmd          {text} NOT NULL,
  status       {text} NOT NULL CHECK (status IN ('running', 'success', 'failed', 'cancelled')),
  exit_code    BIGINT,
  ok           BIGINT NOT NULL CHECK (ok IN (0, 1)),
  elapsed_us   BIGINT NOT NULL,
  cached       BIGINT NOT NULL CHECK (cached IN (0, 1)),
  cache_reason {text} NOT NULL,
  stdout_tail  {text} NOT NULL,
  stderr_tail  {text} NOT NULL,
  PRIMARY KEY (build_id, attempt, step),
  FOREIGN KEY (build_id, attempt) REFERENCES build_attempts (build_id, number)
);

CREATE TABLE build_logs (
  build_id {text} NOT NULL,
  seq      BIGINT NOT NULL CHECK (seq > 0),
  attempt  BIGINT NOT NULL,
  team_id  {text} NOT NULL,
  at       BIGINT NOT NULL,
  phase    {text} NOT NULL,
  step     BIGINT NOT NULL,
  stream   {text} NOT NULL CHECK (stream IN ('stdout', 'stderr', 'system')),
  line     {text} NOT NULL,
  PRIMARY KEY (build_id, seq),
  FOREIGN KEY (build_id, attempt) REFERENCES build_attempts (build_id, number)
);

CREATE TABLE template_versions (
  id              {text} PRIMARY KEY,
  template_id     {text} NOT NULL REFERENCES templates (id),
  team_id         {text} NOT NULL REFERENCES teams (id),
  build_id        {text} UNIQUE REFERENCES template_builds (id),
  type            {text} NOT NULL CHECK (type IN ('base', 'snapshot')),
  platform        {text} NOT NULL,
  image_digest    {text} NOT NULL,
  snapshot_digest {text} NOT NULL,
  engine_digest   {text} NOT NULL,
  size_bytes      BIGINT NOT NULL,
  vcpus           BIGINT NOT NULL,
  memory_mb       BIGINT NOT NULL,
  disk_mb         BIGINT NOT NULL,
  base_template   {text} NOT NULL,
  base_digest     {text} NOT NULL,
  config          {text} NOT NULL,
  plan            {text},
  created_at      BIGINT NOT NULL
);
CREATE INDEX template_versions_by_template ON template_versions (template_id, id);
CREATE INDEX template_versions_by_image ON template_versions (image_digest);
CREATE INDEX template_versions_by_snapshot ON template_versions (snapshot_digest);

CREATE TABLE template_tags (
  template_id {text} NOT NULL REFERENCES templates (id),
  tag         {text} NOT NULL,
  team_id     {text} NOT NULL REFERENCES teams (id),
  version_id  {text} NOT NULL REFERENCES template_versions (id),
  moved_at    BIGINT NOT NULL,
  PRIMARY KEY (template_id, tag)
);
CREATE INDEX template_tags_by_version ON template_tags (version_id);

-- uses_version is version_id while the sandbox is live: the reference protects
-- the version, and its end lets go of it.
CREATE TABLE sandboxes (
  id           {text} PRIMARY KEY,
  team_id      {text} NOT NULL REFERENCES teams (id),
  template     {text} NOT NULL,
  version_id   {text} NOT NULL,
  uses_version {text} REFERENCES template_versions (id),
  host_id      {text} NOT NULL,
  state        {text} NOT NULL CHECK (state IN ('creating', 'running', 'pausing', 'paused', 'resuming', 'killed', 'failed')),
  reason       {text} NOT NULL CHECK (reason IN ('', 'ttl', 'user', 'oom', 'pids', 'guest_lost', 'host_lost', 'engine')),
  vcpus        BIGINT NOT NULL,
  memory_mb    BIGINT NOT NULL,
  disk_mb      BIGINT NOT NULL,
  build_id     {text} REFERENCES template_builds (id),
  created_at   BIGINT NOT NULL,
  expires_at   BIGINT,
  ended_at     BIGINT,
  CHECK ((ended_at IS NULL) = (state NOT IN ('killed', 'failed'))),
  CHECK (ended_at IS NULL OR uses_version IS NULL)
);
CREATE INDEX sandboxes_by_team ON sandboxes (team_id, id);
CREATE INDEX sandboxes_by_host ON sandboxes (host_id, id);
CREATE INDEX sandboxes_live ON sandboxes (id) WHERE ended_at IS NULL;
CREATE INDEX sandboxes_by_version ON sandboxes (uses_version) WHERE uses_version IS NOT NULL;
CREATE INDEX sandboxes_by_build ON sandboxes (build_id) WHERE build_id IS NOT NULL;
CREATE INDEX sandboxes_expiring ON sandboxes (expires_at) WHERE ended_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE ended_at IS NOT NULL;
