-- What keeps an artifact on its host while no version names it yet, and what
-- keeps it from being named while it is removed.

-- +goose Up
-- A claim lasts until its attempt is recorded as clean. made says that the
-- attempt made the artifact: nobody else needs it when the attempt fails.
CREATE TABLE artifact_claims (
  build_id   {text} NOT NULL,
  attempt    BIGINT NOT NULL,
  host_id    {text} NOT NULL,
  digest     {text} NOT NULL,
  made       BIGINT NOT NULL CHECK (made IN (0, 1)),
  claimed_at BIGINT NOT NULL,
  PRIMARY KEY (build_id, attempt, host_id, digest),
  FOREIGN KEY (build_id, attempt) REFERENCES build_attempts (build_id, number)
);
CREATE INDEX artifact_claims_by_digest ON artifact_claims (digest, host_id);

-- The row of a digest is the lock of whoever claims, names or removes it.
-- condemned_at is set while its removal from host_id is under way.
CREATE TABLE artifact_marks (
  digest       {text} PRIMARY KEY,
  host_id      {text} NOT NULL,
  condemned_at BIGINT
);
CREATE INDEX artifact_marks_condemned ON artifact_marks (condemned_at) WHERE condemned_at IS NOT NULL;
