//! Apps, plugins, tokens and the audit log.

macro_rules! app_columns {
    () => {
        "a.id, a.name, a.cursor_key, a.created_at, a.public, a.entries_max, a.bytes_max, \
         a.calls_per_second, a.calls_at_once, a.active_plugin, a.active_module, a.settings"
    };
}

macro_rules! select_apps {
    () => {
        concat!("SELECT ", app_columns!(), " FROM apps AS a ")
    };
}

macro_rules! plugin_columns {
    () => {
        "SELECT p.version, p.digest, p.size, p.exports, p.replaced, p.created_at, p.created_by \
         FROM plugins AS p WHERE p.app_id = $1 \
         AND EXISTS (SELECT 1 FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL) "
    };
}

macro_rules! token_columns {
    () => {
        "SELECT t.id, t.secret_hash, t.name, t.scopes, t.app_id, t.created_at, t.expires_at, \
         t.revoked_at FROM tokens AS t "
    };
}

macro_rules! audit_columns {
    () => {
        "SELECT l.id, l.at, l.token_id, l.actor, l.action, l.app_id, l.app_name, l.detail, \
         l.request_id FROM audit AS l "
    };
}

statements! {
    /// App, its limits, whether it is public, name, cursor key, creation.
    CREATE_APP = "INSERT INTO apps (id, entries_max, bytes_max, calls_per_second, \
        calls_at_once, public, name, cursor_key, created_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    /// App, whether it is public.
    SET_PUBLIC = concat!(
        "UPDATE apps AS a SET public = $2 WHERE a.id = $1 AND a.deleted_at IS NULL RETURNING ", app_columns!()
    );
    /// App, its limits. After `HOLD_APP`.
    SET_LIMITS = concat!(
        "UPDATE apps AS a SET entries_max = $2, bytes_max = $3, calls_per_second = $4, \
         calls_at_once = $5 WHERE a.id = $1 AND a.deleted_at IS NULL RETURNING ", app_columns!()
    );
    /// By identity. Locks it against other changes of its row.
    HOLD_APP = concat!(select_apps!(), "WHERE a.id = $1 AND a.deleted_at IS NULL FOR NO KEY UPDATE");
    /// By name.
    APP = concat!(select_apps!(), "WHERE a.name = $1 AND a.deleted_at IS NULL");
    /// By identity.
    APP_BY_ID = concat!(select_apps!(), "WHERE a.id = $1 AND a.deleted_at IS NULL");
    /// After a name (the empty one for all), limit.
    APPS = concat!(select_apps!(), "WHERE a.name > $1 AND a.deleted_at IS NULL ORDER BY a.name LIMIT $2");
    /// Locks the app exclusively. Waits for all that lock it with `LOCK_APP`.
    LOCK_APP_ALONE = "SELECT a.id FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL FOR UPDATE";
    /// App, now: marks it as deleted. After `HOLD_APP`. Changes no column that identifies the row,
    /// which would wait for all that lock it with `LOCK_APP`.
    BURY = "UPDATE apps AS a SET deleted_at = $2, active_plugin = NULL, active_module = NULL \
        WHERE a.id = $1";
    /// A deleted app: another may have its name now. No app can have the name that it gets. Waits
    /// for all that lock it with `LOCK_APP`.
    FREE_NAME = "UPDATE apps AS a SET name = '~' || a.id::text WHERE a.id = $1 \
        AND a.deleted_at IS NOT NULL AND a.name <> '~' || a.id::text RETURNING a.id";
    /// Deleted apps after an identity, limit.
    GRAVES = "SELECT a.id FROM apps AS a WHERE a.deleted_at IS NOT NULL AND a.id > $1 \
        ORDER BY a.id LIMIT $2";
    /// App: if it was deleted, whether its name is free.
    IS_BURIED = "SELECT a.name = '~' || a.id::text FROM apps AS a WHERE a.id = $1 \
        AND a.deleted_at IS NOT NULL";
    /// Deletes the tombstone of an app without rows. The foreign keys cascade to its plugins and
    /// triggers.
    DELETE_APP = "DELETE FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NOT NULL";
    /// The tokens of a deleted app.
    DELETE_TOKENS = "DELETE FROM tokens AS t WHERE t.app_id = $1";

    /// App: its active version. Locks it against other changes of its plugins.
    ACTIVE = "SELECT a.active_plugin FROM apps AS a WHERE a.id = $1 AND a.deleted_at IS NULL \
        FOR NO KEY UPDATE";
    /// App: the next plugin version. Locks it like `ACTIVE`.
    NEXT_VERSION = "UPDATE apps AS a SET last_plugin = a.last_plugin + 1 WHERE a.id = $1 \
        AND a.deleted_at IS NULL \
        RETURNING a.last_plugin";
    /// Digest, module, time. An existing module is locked until the transaction ends, so that it
    /// cannot be deleted before a version refers to it.
    ADD_MODULE = "INSERT INTO modules AS m (digest, wasm, created_at) VALUES ($1, $2, $3) \
        ON CONFLICT (digest) DO UPDATE SET created_at = m.created_at";
    /// App: the number of its versions, and their bytes.
    VERSIONS_USED = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM plugins \
        WHERE app_id = $1";
    /// App, version, digest, size, exports, time, creator.
    ADD_PLUGIN = "INSERT INTO plugins (app_id, version, digest, size, exports, created_at, \
        created_by) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    /// App, version: its module and exports.
    OFFERED = "SELECT p.digest, p.exports FROM plugins AS p WHERE p.app_id = $1 AND p.version = $2";
    /// App, version, its module: activates it. After `OFFERED`, but not in the same statement: a
    /// distributed engine can change an unsharded table only in a statement that uses no sharded
    /// one.
    SWITCH = "UPDATE apps AS a SET active_plugin = $2, active_module = $3 WHERE a.id = $1";
    /// App, version, the version that it replaced.
    REPLACED = "UPDATE plugins AS p SET replaced = $3 WHERE p.app_id = $1 AND p.version = $2";
    /// App, version: its module.
    DELETE_PLUGIN = "DELETE FROM plugins AS p WHERE p.app_id = $1 AND p.version = $2 \
        RETURNING p.digest";
    /// App: its modules.
    DIGESTS = "SELECT DISTINCT p.digest FROM plugins AS p WHERE p.app_id = $1";
    /// Locks modules against `ADD_MODULE`, and waits for transactions that were first.
    HOLD_MODULES = "SELECT m.digest FROM modules AS m WHERE m.digest = ANY($1) \
        ORDER BY m.digest FOR UPDATE";
    /// Those modules that a version refers to. After `HOLD_MODULES`, in a separate statement: it
    /// must see the versions of the transactions that were first.
    USED_MODULES = "SELECT DISTINCT p.digest FROM plugins AS p WHERE p.digest = ANY($1)";
    /// Deletes modules. After `USED_MODULES`, for those that it did not return.
    FORGET_MODULES = "DELETE FROM modules AS m WHERE m.digest = ANY($1)";
    /// App, the version before which the page starts, limit.
    PLUGINS = concat!(plugin_columns!(), "AND p.version < $2 ORDER BY p.version DESC LIMIT $3");
    /// App, version.
    PLUGIN = concat!(plugin_columns!(), "AND p.version = $2");
    /// By digest, if a version of an app that is not deleted has it.
    MODULE = "SELECT m.wasm FROM modules AS m WHERE m.digest = $1 \
        AND EXISTS (SELECT 1 FROM plugins AS p, apps AS a WHERE p.digest = $1 \
        AND a.id = p.app_id AND a.deleted_at IS NULL)";

    /// Id, hash, name, scopes, app, creation, expiry, revocation.
    CREATE_TOKEN = "INSERT INTO tokens AS t (id, secret_hash, name, scopes, app_id, created_at, \
        expires_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
        ON CONFLICT (id) DO NOTHING RETURNING t.id";
    /// App, limit: a row if it has more tokens than that.
    HAS_MORE_TOKENS = "SELECT t.id FROM tokens AS t WHERE t.app_id = $1 \
        ORDER BY t.id OFFSET $2 LIMIT 1";
    /// App, the one to keep, now: deletes the app's tokens that are revoked or expired.
    DELETE_VOID_TOKENS = "DELETE FROM tokens AS t WHERE t.app_id = $1 AND t.id <> $2 \
        AND (t.revoked_at IS NOT NULL OR t.expires_at <= $3)";
    /// Time: the tokens that administer the instance at that time. Locks them.
    HOLD_ADMINS = "SELECT t.id FROM tokens AS t WHERE t.app_id IS NULL \
        AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $1) \
        AND ' ' || t.scopes || ' ' LIKE '% instance:admin %' ORDER BY t.id FOR UPDATE";
    /// Id, time, app or null for any.
    REVOKE_TOKEN = "UPDATE tokens AS t SET revoked_at = $2 WHERE t.id = $1 \
        AND t.revoked_at IS NULL AND ($3::uuid IS NULL OR t.app_id = $3) RETURNING t.id";
    /// By identity.
    TOKEN = concat!(token_columns!(), "WHERE t.id = $1");
    /// From an identity on, limit.
    TOKENS = concat!(token_columns!(), "WHERE t.id >= $1 ORDER BY t.id LIMIT $2");
    /// From an identity on, limit, app.
    TOKENS_OF_APP = concat!(
        token_columns!(), "WHERE t.app_id = $3 AND t.id >= $1 ORDER BY t.id LIMIT $2"
    );

    /// The last operation.
    GENERATION = "SELECT r.generation FROM registry AS r WHERE r.id = 1";
    /// Makes an operation the last one. Others wait until it commits.
    RAISE = "UPDATE registry AS r SET generation = $1 WHERE r.id = 1 RETURNING r.id";

    /// The columns of a row.
    WRITE_AUDIT = "INSERT INTO audit (id, at, token_id, actor, action, app_id, app_name, detail, \
        request_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    /// Before an identity, limit: removes the oldest rows, except for those that another host is
    /// removing.
    PRUNE_AUDIT = "DELETE FROM audit AS w WHERE w.id IN \
        (SELECT l.id FROM audit AS l WHERE l.id < $1 ORDER BY l.id LIMIT $2 \
        FOR UPDATE SKIP LOCKED) RETURNING w.id";
    /// App, how many to keep, limit: removes the oldest rows of an app.
    PRUNE_AUDIT_OF_APP = "DELETE FROM audit AS w WHERE w.id IN \
        (SELECT l.id FROM audit AS l WHERE l.app_id = $1 AND l.id <= (SELECT k.id \
        FROM audit AS k WHERE k.app_id = $1 ORDER BY k.id DESC OFFSET $2 LIMIT 1) \
        ORDER BY l.id LIMIT $3 FOR UPDATE SKIP LOCKED) RETURNING w.id";
    /// Before an identity, limit.
    AUDIT = concat!(audit_columns!(), "WHERE l.id < $1 ORDER BY l.id DESC LIMIT $2");
    /// Before an identity, limit, app.
    AUDIT_OF_APP = concat!(
        audit_columns!(), "WHERE l.app_id = $3 AND l.id < $1 ORDER BY l.id DESC LIMIT $2"
    );
}
