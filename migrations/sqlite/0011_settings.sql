-- The settings of apps. A configuration value is in `value`; a secret is in `sealed`, which
-- the key `key_id` has encrypted. The limits of an app keep them few and small.
CREATE TABLE app_settings (
    app_id     BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    secret     INTEGER NOT NULL CHECK (secret IN (0, 1)),
    name       TEXT    NOT NULL,
    value      TEXT,
    sealed     BLOB,
    key_id     BLOB    CHECK (length(key_id) = 8),
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (app_id, secret, name),
    CHECK (CASE secret
        WHEN 0 THEN value IS NOT NULL AND sealed IS NULL AND key_id IS NULL
        ELSE value IS NULL AND sealed IS NOT NULL AND key_id IS NOT NULL END)
) STRICT, WITHOUT ROWID;

-- The audit row of the last change of the app's settings, so that a host which has them in
-- memory knows from the app's row whether they are current.
ALTER TABLE apps ADD COLUMN settings BLOB CHECK (length(settings) = 16);

-- The only key with which secrets may be sealed.
ALTER TABLE registry ADD COLUMN secrets_key BLOB CHECK (length(secrets_key) = 8);
