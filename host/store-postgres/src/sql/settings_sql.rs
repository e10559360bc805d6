//! Settings and grants of apps.

statements! {
    /// App, operation. Locks the app until the transaction ends.
    TOUCH_SETTINGS = "UPDATE apps AS a SET settings = $2 \
        WHERE a.id = $1 AND a.deleted_at IS NULL RETURNING a.id";
    /// App. Locks it until the transaction ends.
    HOLD_APP = "SELECT a.id FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL \
        FOR NO KEY UPDATE";
    /// App, whether it is a secret, name, value, sealed bytes, key, time. After `TOUCH_SETTINGS`.
    SET_SETTING = "INSERT INTO app_settings AS s (app_id, secret, name, value, sealed, key_id, \
        updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (app_id, secret, name) \
        DO UPDATE SET value = excluded.value, sealed = excluded.sealed, \
        key_id = excluded.key_id, updated_at = excluded.updated_at";
    /// App: the number of its settings, and their bytes.
    SETTINGS_USED = "SELECT count(*), coalesce(sum(octet_length(s.name) \
        + coalesce(octet_length(s.value), 0) + coalesce(octet_length(s.sealed), 0)), 0)::bigint \
        FROM app_settings AS s WHERE s.app_id = $1";
    /// App, whether it is a secret, name.
    UNSET_SETTING = "DELETE FROM app_settings AS s WHERE s.app_id = $1 AND s.secret = $2 \
        AND s.name = $3 RETURNING s.name";
    /// App: all of its settings, when it is deleted.
    UNSET_ALL = "DELETE FROM app_settings AS s WHERE s.app_id = $1";
    /// App, name, sealed bytes before, sealed bytes, key. After `HOLD_APP`.
    RESEAL = "UPDATE app_settings AS s SET sealed = $4, key_id = $5 WHERE s.app_id = $1 \
        AND s.secret AND s.name = $2 AND s.sealed = $3 RETURNING s.name";
    /// App: the last change of its settings and grants, and each of them. One row of nulls if it has
    /// none.
    SETTINGS = "SELECT a.settings, x.kind, x.name, x.value, x.sealed, x.key_id, x.at \
        FROM apps AS a LEFT JOIN ((SELECT CASE WHEN s.secret THEN 'secret' ELSE 'config' END \
            AS kind, s.name, s.value, s.sealed, s.key_id, s.updated_at AS at \
            FROM app_settings AS s WHERE s.app_id = $1) \
            UNION ALL (SELECT 'grant', g.kind, g.subject, NULL, NULL, g.granted_at \
            FROM app_grants AS g WHERE g.app_id = $1)) AS x ON true \
        WHERE a.id = $1 AND a.deleted_at IS NULL \
        ORDER BY x.kind COLLATE \"C\", x.name COLLATE \"C\", x.value COLLATE \"C\"";
    /// App, kind, subject, time. Returns a row if it is new. After `HOLD_APP`.
    ADD_GRANT = "INSERT INTO app_grants AS g (app_id, kind, subject, granted_at) \
        VALUES ($1, $2, $3, $4) ON CONFLICT (app_id, kind, subject) DO NOTHING RETURNING g.kind";
    /// App: the number of its grants.
    GRANTS_USED = "SELECT count(*) FROM app_grants AS g WHERE g.app_id = $1";
    /// App, kind, subject. After `HOLD_APP`.
    REMOVE_GRANT = "DELETE FROM app_grants AS g WHERE g.app_id = $1 AND g.kind = $2 \
        AND g.subject = $3 RETURNING g.kind";
    /// App: all of its grants, when it is deleted.
    REVOKE_ALL = "DELETE FROM app_grants AS g WHERE g.app_id = $1";
    /// Key: makes it the current one if there is none.
    FIRST_SECRETS_KEY = "UPDATE registry AS r SET secrets_key = $1 \
        WHERE r.id = 1 AND r.secrets_key IS NULL";
    /// The current key. Locks the row until the transaction ends, so that no other key becomes the
    /// current one before what this one has sealed is committed.
    HOLD_SECRETS_KEY = "SELECT r.secrets_key FROM registry AS r WHERE r.id = 1 \
        FOR NO KEY UPDATE";
    /// Key: makes it the current one.
    SET_SECRETS_KEY = "UPDATE registry AS r SET secrets_key = $1 \
        WHERE r.id = 1 AND r.secrets_key IS DISTINCT FROM $1 RETURNING r.id";
    /// The current key.
    SECRETS_KEY = "SELECT r.secrets_key FROM registry AS r WHERE r.id = 1";
}
