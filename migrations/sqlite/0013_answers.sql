-- Answers of idempotent calls.

-- `id` is a MAC of the caller and the key, `request` a hash of the request. `output` is NULL if it
-- was too large to keep. `size` counts against the quota.
CREATE TABLE kept_answers (
    app_id     BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    id         BLOB    NOT NULL CHECK (length(id) = 32),
    request    BLOB    NOT NULL CHECK (length(request) = 32),
    output     BLOB,
    size       INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (app_id, id)
) STRICT;

CREATE INDEX kept_answers_by_expiry ON kept_answers (app_id, expires_at);
