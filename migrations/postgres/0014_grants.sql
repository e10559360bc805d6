-- What the apps grant to their plugins. A change of an app's grants is also a change of its
-- settings (`apps.settings`). The limits of an app keep them few.
CREATE TABLE app_grants (
    app_id uuid NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    kind text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    granted_at bigint NOT NULL,
    PRIMARY KEY (app_id, kind, subject)
);
