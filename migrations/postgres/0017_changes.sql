-- The log of changes, for watchers.

-- The apps whose changes are kept, and until when. `start` is the position after which the log is
-- complete; NULL while commits are in progress that may not know of the row yet. Like the changes,
-- it does not refer to the app, so that a commit locks nothing else.
CREATE TABLE change_logs (
    app_id uuid PRIMARY KEY,
    until bigint NOT NULL,
    start bigint
);

-- Positions. Each is drawn by a transaction that has a transaction id already, while it holds the
-- lock of the entry. So the positions of a key are in the order of its commits, and a host can tell
-- when no transaction with an earlier position is in progress. CACHE stays 1 for both.
CREATE SEQUENCE change_position AS bigint CACHE 1 NO CYCLE;

CREATE TABLE changes (
    app_id uuid NOT NULL,
    position bigint NOT NULL,
    at bigint NOT NULL,
    size integer NOT NULL,
    version bigint NOT NULL,
    collection text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- The new value; both are NULL for a deletion.
    json jsonb,
    bytes bytea,
    PRIMARY KEY (app_id, position)
);

-- For the apps that have new changes.
CREATE INDEX changes_by_position ON changes (position, app_id);

-- Adds the change of an entry, if the changes of its app are kept. All writes of entries pass
-- here, by whichever statement. Entries of deleted apps are removed without a change, and so are
-- expired ones.
CREATE FUNCTION log_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT 1 FROM change_logs AS l WHERE l.app_id = OLD.app_id)
            AND EXISTS (SELECT 1 FROM apps AS a WHERE a.id = OLD.app_id AND a.deleted_at IS NULL)
            AND (OLD.expires_at IS NULL
                OR OLD.expires_at > extract(epoch FROM clock_timestamp()) * 1000)
        THEN
            INSERT INTO changes (app_id, position, at, size, version, collection, key)
            VALUES (OLD.app_id, nextval('change_position'),
                (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
                octet_length(OLD.collection) + octet_length(OLD.key),
                OLD.version, OLD.collection, OLD.key);
        END IF;
    ELSIF EXISTS (SELECT 1 FROM change_logs AS l WHERE l.app_id = NEW.app_id) THEN
        INSERT INTO changes (app_id, position, at, size, version, collection, key, json, bytes)
        VALUES (NEW.app_id, nextval('change_position'), NEW.updated_at, NEW.size,
            NEW.version, NEW.collection, NEW.key, NEW.json, NEW.bytes);
    END IF;
    RETURN NULL;
END $$;

-- Rows of version 0 only hold the place of a key that is checked (`commit_entries`).
CREATE TRIGGER log_insert AFTER INSERT ON kv_entries
    FOR EACH ROW WHEN (NEW.version <> 0) EXECUTE FUNCTION log_change();
CREATE TRIGGER log_update AFTER UPDATE ON kv_entries
    FOR EACH ROW WHEN (NEW.version <> OLD.version) EXECUTE FUNCTION log_change();
CREATE TRIGGER log_delete AFTER DELETE ON kv_entries
    FOR EACH ROW WHEN (OLD.version <> 0) EXECUTE FUNCTION log_change();
