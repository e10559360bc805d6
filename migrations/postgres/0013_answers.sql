-- Answers of idempotent calls.

-- `id` is a MAC of the caller and the key, `request` a hash of the request. `output` is NULL if it
-- was too large to keep. `size` counts against the quota; `replaced` is the size of the expired
-- answer that the last write has replaced, 0 if there was none.
CREATE TABLE kept_answers (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    id bytea NOT NULL CHECK (octet_length(id) = 32),
    request bytea NOT NULL CHECK (octet_length(request) = 32),
    output bytea,
    size integer NOT NULL,
    replaced integer NOT NULL DEFAULT 0,
    expires_at bigint NOT NULL,
    PRIMARY KEY (app_id, id)
);

CREATE INDEX kept_answers_by_expiry ON kept_answers (app_id, expires_at);
