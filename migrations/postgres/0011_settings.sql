-- The settings of apps. A configuration value is in `value`; a secret is in `sealed`, which
-- the key `key_id` has encrypted. The limits of an app keep them few and small.
CREATE TABLE app_settings (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    secret boolean NOT NULL,
    name text COLLATE "C" NOT NULL,
    value text,
    sealed bytea,
    key_id bytea CHECK (length(key_id) = 8),
    updated_at bigint NOT NULL,
    PRIMARY KEY (app_id, secret, name),
    CHECK (CASE WHEN secret
        THEN value IS NULL AND sealed IS NOT NULL AND key_id IS NOT NULL
        ELSE value IS NOT NULL AND sealed IS NULL AND key_id IS NULL END)
);

-- The audit row of the last change of the app's settings, so that a host which has them in
-- memory knows from the app's row whether they are current.
ALTER TABLE apps ADD COLUMN settings uuid;

-- The only key with which secrets may be sealed.
ALTER TABLE registry ADD COLUMN secrets_key bytea CHECK (length(secrets_key) = 8);
