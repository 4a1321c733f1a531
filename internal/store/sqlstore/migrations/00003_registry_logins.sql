-- The sealed login at the registry of a build's base, base64. It is gone when
-- the build has ended: a row that would keep it longer is refused.

-- +goose Up
ALTER TABLE template_builds ADD COLUMN registry_login {text} CHECK (registry_login IS NULL OR completed_at IS NULL);
