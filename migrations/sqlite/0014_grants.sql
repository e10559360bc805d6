-- What the apps grant to their plugins. A change of an app's grants is also a change of its
-- settings (`apps.settings`). The limits of an app keep them few.
CREATE TABLE app_grants (
    app_id     BLOB    NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    kind       TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    granted_at INTEGER NOT NULL,
    PRIMARY KEY (app_id, kind, subject)
) STRICT, WITHOUT ROWID;
