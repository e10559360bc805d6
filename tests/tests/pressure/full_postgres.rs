//! A Postgres server without free space: which operations are rejected, which continue, and
//! recovery once there is space.

use super::full_disk::Disk;
use super::kit;
use kvasm::store::{PostgresOptions, PostgresStore};
use kvasm_store_testing::conformance::rng::Rng;
use kvasm_tests::postgres::{Cluster, Options};
use kvasm_tests::server::{ApiResponse, Server, eventually};
use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// The size of each value.
const BYTES: usize = 256 * 1024;

/// What limits the files of a cluster.
enum SizeLimit {
    /// A file system for its tablespace. The WAL is elsewhere: a server that cannot write its
    /// WAL stops, and is then like one that is unreachable.
    Disk(Disk),
    /// The system's limit for each file. It needs no privileges.
    Files,
}

impl SizeLimit {
    /// The URL of an empty database within the limit.
    fn database(&self, cluster: &Cluster) -> String {
        let tablespace = match self {
            SizeLimit::Disk(disk) => {
                cluster.create_tablespace("small", disk.path()).unwrap();
                " TABLESPACE small"
            }
            SizeLimit::Files => "",
        };
        let sql = format!("CREATE DATABASE full_disk{tablespace}");
        cluster.psql("postgres", &sql).unwrap();
        cluster.url("full_disk")
    }

    /// Applies the limit after the first connections, which create the schema.
    fn begin(&self, cluster: &Cluster) {
        if let SizeLimit::Files = self {
            // Not on a page boundary, so that a page is written in part.
            cluster.limit_files(Some(17 * MIB + 4096)).unwrap();
        }
    }

    /// Leaves no space for the probe's own table either. A full disk has none for any table.
    fn fill_for_probe(&self, cluster: &Cluster) {
        if let SizeLimit::Files = self {
            // The space that a failed write has taken is not reclaimed.
            let off = "ALTER SYSTEM SET autovacuum = off";
            cluster.psql("postgres", off).unwrap();
            cluster.psql("postgres", "SELECT pg_reload_conf()").unwrap();
            let large = "UPDATE health SET filler = repeat('x', 18 * 1024 * 1024)::bytea";
            let refused = cluster.psql("full_disk", large).unwrap_err().to_string();
            assert!(refused.contains("could not extend"), "{refused}");
        }
    }

    fn end(&self, cluster: &Cluster) {
        match self {
            SizeLimit::Disk(disk) => disk.resize(256 * MIB),
            SizeLimit::Files => cluster.limit_files(None).unwrap(),
        }
    }
}

fn entry(key: &str) -> String {
    format!("/v1/apps/app/kv/entry?collection=c&key={key}")
}

async fn put(server: &Server, key: &str, value: Vec<u8>) -> ApiResponse {
    let kind = "application/octet-stream";
    server.root.bytes("PUT", &entry(key), kind, value).await
}

/// Asserts that the host reports that Postgres is full.
fn assert_full(answer: &ApiResponse) {
    answer.expect_problem(507, "store-full");
    assert!(!answer.text().contains("base/"), "{}", answer.text());
}

async fn a_database_that_is_full(bound: SizeLimit) {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(Options::default()).unwrap());
    let cluster = cluster.await.unwrap();
    let options = PostgresOptions {
        acquire_timeout: Duration::from_secs(60),
        statement_timeout: Duration::from_secs(60),
        ..PostgresOptions::new(bound.database(&cluster))
    };
    let store = PostgresStore::connect(options).await.unwrap();
    let server = Server::with(|builder| builder.store(store)).await;
    server.app("app", true).await;
    let anonymous = server.anonymous();
    anonymous.get("/readyz").await.expect(200);
    bound.begin(&cluster);

    // Incompressible bytes.
    let mut rng = Rng::new(7);
    let value: Vec<u8> = (0..BYTES).map(|_| rng.below(256) as u8).collect();
    let mut written = Vec::new();
    let refused = loop {
        let key = format!("k{}", written.len());
        let answer = put(&server, &key, value.clone()).await;
        if answer.status != 200 {
            break answer;
        }
        written.push(key);
        assert!(written.len() < 512, "nothing limits the writes");
    };
    assert!(written.len() > 16, "{}", written.len());
    assert_full(&refused);
    bound.fill_for_probe(&cluster);
    eventually("the host is not ready", async || {
        // The remaining space is too little for this value, and is used up by it.
        assert_full(&put(&server, "more", value.clone()).await);
        anonymous.get("/readyz").await.status == 503
    })
    .await;

    // Reads continue, and the process is healthy.
    anonymous.get("/healthz").await.expect(200);
    for key in &written {
        let found = server.root.get(&entry(key)).await.expect(200);
        assert!(found.body == value, "{key}");
    }
    let absent = server.root.get(&entry("more")).await;
    absent.expect_problem(404, "entry-not-found");
    // A deletion succeeds or is rejected; it needs space for its audit row at most.
    let mut deleted = 0;
    for key in &written {
        let answer = server.root.send("DELETE", &entry(key)).await;
        let done = answer.status == 200 || answer.status == 204;
        if !done {
            assert_full(&answer);
        }
        deleted += usize::from(done);
        let found = server.root.get(&entry(key)).await.status;
        assert_eq!(found, if done { 404 } else { 200 }, "{key}");
    }
    assert!(deleted > 0, "nothing can be deleted");

    bound.end(&cluster);
    eventually("the host is ready", async || {
        anonymous.get("/readyz").await.status == 200
    })
    .await;
    put(&server, "new", value.clone()).await.expect(200);
    let found = server.root.get(&entry("new")).await.expect(200);
    assert!(found.body == value);
    server.stop().await;
    drop((cluster, bound));
}

/// On its own disk, where tests may mount one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_postgres_disk_rejects_writes_without_data_loss() {
    let _alone = kit::serial().await;
    // An empty database takes 8 MiB of this, plus the schema.
    match Disk::new(32 * MIB) {
        Some(disk) => a_database_that_is_full(SizeLimit::Disk(disk)).await,
        None => {
            println!("this user cannot mount a tmpfs: limiting the file sizes instead");
            a_database_that_is_full(SizeLimit::Files).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_file_size_limit_rejects_writes_without_data_loss() {
    let _alone = kit::serial().await;
    a_database_that_is_full(SizeLimit::Files).await;
}
