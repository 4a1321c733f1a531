-- Limits of teams, metadata and idempotency of sandboxes, filters by metadata
-- and labels, builds that wait for a place. Everything is added; what is there
-- means what it meant.

-- +goose Up

-- 0 is no limit. paid_until is a token bucket of one minute: each create of a
-- team with a limit moves it on by its share of the minute, and it may not be
-- further ahead than a minute.
ALTER TABLE teams ADD COLUMN max_sandboxes BIGINT NOT NULL DEFAULT 0 CHECK (max_sandboxes >= 0);
ALTER TABLE teams ADD COLUMN max_vcpus BIGINT NOT NULL DEFAULT 0 CHECK (max_vcpus >= 0);
ALTER TABLE teams ADD COLUMN max_memory_mb BIGINT NOT NULL DEFAULT 0 CHECK (max_memory_mb >= 0);
ALTER TABLE teams ADD COLUMN max_running_builds BIGINT NOT NULL DEFAULT 0 CHECK (max_running_builds >= 0);
ALTER TABLE teams ADD COLUMN max_pending_builds BIGINT NOT NULL DEFAULT 0 CHECK (max_pending_builds >= 0);
ALTER TABLE teams ADD COLUMN max_creates_per_minute BIGINT NOT NULL DEFAULT 0 CHECK (max_creates_per_minute >= 0);
ALTER TABLE teams ADD COLUMN paid_until BIGINT NOT NULL DEFAULT 0;

-- A build that no host could take is not claimed before not_before.
-- taken_back counts attempts that a start of the control plane took back.
ALTER TABLE template_builds ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
ALTER TABLE template_builds ADD COLUMN taken_back BIGINT NOT NULL DEFAULT 0 CHECK (taken_back >= 0);

-- metadata and error are JSON or NULL.
ALTER TABLE sandboxes ADD COLUMN metadata {text};
ALTER TABLE sandboxes ADD COLUMN idempotency_key {text};
ALTER TABLE sandboxes ADD COLUMN request_digest {text} NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN error {text};
CREATE UNIQUE INDEX sandboxes_by_key ON sandboxes (team_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX sandboxes_live_by_team ON sandboxes (team_id, id) WHERE ended_at IS NULL;
CREATE INDEX sandboxes_by_template ON sandboxes (team_id, template, id);

CREATE INDEX template_builds_by_team_status ON template_builds (team_id, status, id);

-- Filters by name and value. pair is the SHA-256 of the two, so that values of
-- any size and content can be looked up; the text itself is in the owner's row.
CREATE TABLE sandbox_pairs (
  object_id {text} NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
  team_id   {text} NOT NULL REFERENCES teams (id),
  pair      {text} NOT NULL,
  PRIMARY KEY (object_id, pair)
);
CREATE INDEX sandbox_pairs_by_pair ON sandbox_pairs (team_id, pair, object_id);

CREATE TABLE build_pairs (
  object_id {text} NOT NULL REFERENCES template_builds (id) ON DELETE CASCADE,
  team_id   {text} NOT NULL REFERENCES teams (id),
  pair      {text} NOT NULL,
  PRIMARY KEY (object_id, pair)
);
CREATE INDEX build_pairs_by_pair ON build_pairs (team_id, pair, object_id);

CREATE TABLE version_pairs (
  object_id {text} NOT NULL REFERENCES template_versions (id) ON DELETE CASCADE,
  team_id   {text} NOT NULL REFERENCES teams (id),
  pair      {text} NOT NULL,
  PRIMARY KEY (object_id, pair)
);
CREATE INDEX version_pairs_by_pair ON version_pairs (team_id, pair, object_id);

-- Versions of earlier releases get their pairs at the next start.
ALTER TABLE template_versions ADD COLUMN paired BIGINT NOT NULL DEFAULT 0 CHECK (paired IN (0, 1));
CREATE INDEX template_versions_unpaired ON template_versions (id) WHERE paired = 0;
