//! Connecting to the server: encryption, poolers, connection limits, migration locks.

use super::psql;
use kvasm::store::{PostgresOptions, PostgresStore, Store, StoreError};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::bytes;
use kvasm_tests::postgres::{Bouncer, Cluster, Options, PoolMode, Session, fresh_database, shared};
use std::sync::Arc;
use std::time::Duration;

/// Options with long timeouts, so that no test fails on a busy machine.
fn patient(url: impl Into<String>) -> PostgresOptions {
    PostgresOptions {
        acquire_timeout: Duration::from_secs(60),
        statement_timeout: Duration::from_secs(60),
        ..PostgresOptions::new(url)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

/// Writes and reads through a store.
async fn works(store: PostgresStore) {
    let app = Kit::new(Arc::new(store), 1).app().await;
    app.set("c", "k", bytes("1")).await;
    assert_eq!(app.get("c", "k").await.expect("an entry").value, bytes("1"));
}

/// The numbers of encrypted and unencrypted sessions of hosts.
fn encrypted(cluster: &Cluster) -> (String, String) {
    let count = |condition: &str| {
        let sql = format!(
            "SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = 'kvasm' AND {condition}"
        );
        cluster.psql("postgres", &sql).expect("psql")
    };
    (count("ssl"), count("NOT ssl"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x509_v1_certificate_is_accepted_unless_verification_is_on() {
    let options = Options {
        tls: true,
        ..Options::default()
    };
    let cluster = blocking(move || Cluster::start(options).unwrap()).await;
    for mode in ["prefer", "require"] {
        let url = format!("{}?sslmode={mode}", cluster.url("postgres"));
        let store = PostgresStore::connect(patient(url)).await.expect("a store");
        let app = Kit::new(Arc::new(store), 1).app().await;
        // More than one packet in each direction.
        let value = bytes("x".repeat(300_000));
        app.set("c", "k", value.clone()).await;
        assert_eq!(app.get("c", "k").await.expect("an entry").value, value);
        assert_eq!(
            encrypted(&cluster),
            ("t".to_owned(), "f".to_owned()),
            "{mode}"
        );
    }
    for mode in ["verify-ca", "verify-full"] {
        let url = format!("{}?sslmode={mode}", cluster.url("postgres"));
        let refused = PostgresStore::connect(patient(url)).await.err();
        assert!(refused.is_some(), "{mode}");
    }
    // As with libpq, a root certificate requests verification.
    let authority = "%2Fetc%2Fssl%2Fcerts%2Fca-certificates.crt";
    let url = format!(
        "{}?sslmode=require&sslrootcert={authority}",
        cluster.url("postgres")
    );
    assert!(PostgresStore::connect(patient(url)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslmode_falls_back_without_tls_unless_required() {
    let url = blocking(fresh_database).await;
    for mode in ["disable", "allow", "prefer"] {
        let url = format!("{url}?sslmode={mode}");
        works(PostgresStore::connect(patient(url)).await.expect("a store")).await;
    }
    let url = format!("{url}?sslmode=require");
    let error = PostgresStore::connect(patient(url))
        .await
        .err()
        .expect("no store");
    assert!(format!("{error:?}").contains("TLS"), "{error:?}");
}

/// A server that accepts encryption and then aborts the handshake, but also accepts unencrypted
/// connections.
async fn breaks_handshakes(port: u16) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 8];
                client.read_exact(&mut head).await.unwrap();
                if head[4..] == [0x04, 0xd2, 0x16, 0x2f] {
                    client.write_all(b"S").await.unwrap();
                    let mut hello = [0; 64];
                    let _ = client.read(&mut hello).await;
                    let _ = client.write_all(b"this is no TLS").await;
                    return;
                }
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .unwrap();
                server.write_all(&head).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    own
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslmode_prefer_falls_back_after_a_failed_handshake() {
    let url = blocking(fresh_database).await;
    let server = blocking(|| shared().port()).await;
    let port = breaks_handshakes(server).await;
    let url = url.replace(&format!(":{server}/"), &format!(":{port}/"));
    let prefer = PostgresStore::connect(patient(url.clone())).await;
    works(prefer.expect("a store")).await;
    let require = PostgresStore::connect(patient(format!("{url}?sslmode=require"))).await;
    assert!(require.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_mode_pooler_needs_no_settings() {
    let url = blocking(fresh_database).await;
    let database = url.rsplit('/').next().unwrap().to_owned();
    let start = move || Bouncer::start(shared(), PoolMode::Session, "").unwrap();
    let Some(bouncer) = blocking(start).await else {
        return;
    };
    let store = PostgresStore::connect(patient(bouncer.url(&database))).await;
    let store = store.expect("a store");
    // The store's settings apply although the pooler dropped the startup parameters.
    let app = Kit::new(Arc::new(store), 1).app().await;
    let writes = (0..32).map(|n| {
        let app = app.clone();
        tokio::spawn(async move { app.set("c", &format!("k{n}"), bytes("1")).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    let again = PostgresStore::connect(patient(bouncer.url(&database))).await;
    works(again.expect("a second host")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_mode_pooler_is_rejected_with_a_hint() {
    let url = blocking(fresh_database).await;
    let database = url.rsplit('/').next().unwrap().to_owned();
    for mode in [PoolMode::Transaction, PoolMode::Statement] {
        for size in [1, 20] {
            let more = format!("default_pool_size = {size}");
            let start = move || Bouncer::start(shared(), mode, &more).unwrap();
            let Some(bouncer) = blocking(start).await else {
                return;
            };
            let error = PostgresStore::connect(patient(bouncer.url(&database))).await;
            let error = error.err().expect("no store");
            assert!(
                matches!(error, StoreError::Failed(_)),
                "{mode:?}: {error:?}"
            );
            let text = format!("{error:?} {}", std::error::Error::source(&error).unwrap());
            assert!(text.contains("pool_mode = session"), "{mode:?}: {text}");
        }
    }
    // The rejected connections created nothing.
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(psql(&url, tables).await, "0");
}

/// Takes the migration lock of a database in a session. Returns the session and its pid.
fn hold_migration_lock(url: &str) -> impl FnOnce() -> (Session, String) + Send + 'static {
    let database = url.rsplit('/').next().unwrap().to_owned();
    move || {
        let crc = !database.bytes().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
            })
        });
        let lock = 0x3d32_ad9e * i64::from(crc);
        let mut session = Session::start(shared(), &database).unwrap();
        let lock = format!("SELECT pg_advisory_lock({lock}), pg_backend_pid()");
        let answer = session.run(&lock).unwrap();
        let pid = answer.trim_start_matches('|').to_owned();
        (session, pid)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migration_lock_wait_times_out() {
    let url = blocking(fresh_database).await;
    let options = PostgresOptions {
        lock_timeout: Duration::from_millis(300),
        ..patient(url.clone())
    };
    // The migration lock, held by an idle session.
    let (session, pid) = blocking(hold_migration_lock(&url)).await;
    let error = PostgresStore::connect(options.clone())
        .await
        .err()
        .expect("no store");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let text = std::error::Error::source(&error).unwrap().to_string();
    for part in [
        "no lock within 300ms",
        &format!("pid {pid} "),
        "pg_terminate_backend",
    ] {
        assert!(text.contains(part), "{text}");
    }
    blocking(|| drop(session)).await;
    PostgresStore::migrate(&options).await.expect("a schema");
    // An up-to-date schema needs no lock.
    let session = blocking(hold_migration_lock(&url)).await;
    works(PostgresStore::connect(options).await.expect("a store")).await;
    blocking(|| drop(session)).await;
}

/// The privileges that `docs/operating.md` lists for a role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_role_privileges_are_sufficient() {
    let url = blocking(fresh_database).await;
    let database = url.rsplit('/').next().unwrap().to_owned();
    let (owner, server) = (format!("owner_{database}"), format!("server_{database}"));
    psql(
        &url,
        format!(
            "CREATE ROLE {owner} LOGIN; CREATE ROLE {server} LOGIN; \
             REVOKE ALL ON SCHEMA public FROM PUBLIC; \
             GRANT USAGE, CREATE ON SCHEMA public TO {owner}; \
             GRANT USAGE ON SCHEMA public TO {server}"
        ),
    )
    .await;
    let of = |role: &str| patient(url.replace("postgres@", &format!("{role}@")));
    let refused = PostgresStore::connect(of(&server)).await;
    assert!(refused.is_err(), "a role that cannot create the schema");
    PostgresStore::migrate(&of(&owner)).await.expect("a schema");
    psql(
        &url,
        format!(
            "SET ROLE {owner}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {server}; \
             GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {server}"
        ),
    )
    .await;
    for role in [&owner, &server] {
        let store = PostgresStore::connect(of(role)).await.expect("a store");
        store.ping().await.expect("a probe");
        let app = Kit::new(Arc::new(store), 1).app().await;
        app.watch("t", "c").await;
        app.set("c", "k", bytes("1")).await;
        assert_eq!(app.due().await, ["t"]);
        let claimed = app.claim("t", 1).await;
        app.acknowledge(&claimed[0].1, vec![]).await.expect("done");
        assert_eq!(app.add("a module", true).await, 1);
        assert!(app.delete_app().await.expect("a deletion"));
        kvasm_store_testing::conformance::kit::reap(&*app.store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exhausted_connection_slots_are_reported_with_numbers() {
    let options = Options {
        settings: &["max_connections=12", "superuser_reserved_connections=2"],
        ..Options::default()
    };
    let cluster = blocking(move || Cluster::start(options).unwrap()).await;
    let short = PostgresOptions {
        acquire_timeout: Duration::from_secs(1),
        ..patient(cluster.url("postgres"))
    };
    let store = PostgresStore::connect(patient(cluster.url("postgres")))
        .await
        .unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let app = Kit::new(Arc::clone(&store), 1).app().await;
    // Other sessions take some slots: callers without one wait for those that have one.
    let cluster = Arc::new(cluster);
    let session = |cluster: &Arc<Cluster>| {
        let cluster = Arc::clone(cluster);
        blocking(move || Session::start(&cluster, "postgres"))
    };
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(session(&cluster).await.unwrap());
    }
    let writes = (0..64).map(|n| {
        let app = app.clone();
        tokio::spawn(async move { app.set("c", &format!("k{n}"), bytes("1")).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    // Takes the remaining slots.
    while let Ok(more) = session(&cluster).await {
        others.push(more);
    }
    let error = PostgresStore::connect(short).await.err().expect("no store");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let text = std::error::Error::source(&error).unwrap().to_string();
    for part in [
        "open 16 (postgres.connections)",
        "max_connections",
        "too many clients",
    ] {
        assert!(text.contains(part), "{text}");
    }
    blocking(|| drop(others)).await;
}
