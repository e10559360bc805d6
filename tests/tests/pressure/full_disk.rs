//! A full disk: operations that free space succeed, and the store then recovers.

use super::kit;
use kvasm::store::{SqliteOptions, SqliteStore, Store, StoreError};
use kvasm_store_testing::conformance::Kit;
use kvasm_store_testing::conformance::kit::{Tenant, audit_row, bytes, delete, reap_step, set};
use kvasm_tests::server::eventually;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A small file system, unmounted when this is dropped.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// Returns `None` where tests may not mount.
    pub fn new(bytes: u64) -> Option<Disk> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(folder.path())
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then_some(Disk(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Changes its size.
    pub fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &size]).arg(self.path()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn open(path: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(SqliteOptions::new(path)).await.unwrap())
}

async fn is_refused(app: &Tenant) {
    let op = set("c", "new", bytes("1"));
    let refused = app.try_commit(vec![], vec![op]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
}

/// Without permission to mount a disk this test only prints a message. The store's unit tests
/// cover the same with a limit of SQLite's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_work_on_a_full_disk_and_free_space() {
    let _alone = kit::serial().await;
    let Some(disk) = Disk::new(40 * 1024 * 1024) else {
        println!("SKIPPED: this user cannot mount a tmpfs");
        return;
    };
    let path = disk.0.path().join("kvasm.db");
    let ballast = disk.0.path().join("kvasm.db-ballast");
    let kit = Kit::new(open(&path).await, 0);
    let (big, other) = (kit.app().await, kit.app().await);
    other.set("c", "old", bytes("1")).await;
    assert!(ballast.exists());
    // The WAL takes space too, which is returned at first. In the end none is left, however
    // often the store retries.
    let (mut written, mut refused) = (0, 0);
    while refused < 40 {
        let value = bytes(vec![7; 64 * 1024]);
        let op = set("c", &format!("k{written}"), value);
        match big.try_commit(vec![], vec![op]).await {
            Ok(_) => (written, refused) = (written + 1, 0),
            Err(StoreError::Full(_) | StoreError::Failed(_)) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(written > 100, "{written}");
    assert!(!ballast.exists());
    is_refused(&other).await;
    let unready = kit.store.ping().await;
    assert!(matches!(unready, Err(StoreError::Full(_))), "{unready:?}");
    let (big_id, other_id) = (big.id, other.id);
    drop((big, other, kit));

    // A restart does not work around it.
    let kit = Kit::new(open(&path).await, 0);
    let of = |id| Tenant {
        store: Arc::clone(&kit.store),
        id,
        name: kvasm_store_testing::conformance::kit::app("app").name,
        now: kvasm_store_testing::conformance::kit::NOW,
    };
    let (big, other) = (of(big_id), of(other_id));
    is_refused(&other).await;
    // A deletion without effect would only add its audit row.
    let mut batch = big.batch(vec![], vec![delete("c", "absent")]);
    batch.audit = Some(Box::new(audit_row("kv.delete")));
    let refused = kit.store.commit(batch).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    // An administrator's deletion adds an audit row.
    for at in 0..20 {
        let mut batch = big.batch(vec![], vec![delete("c", &format!("k{at}"))]);
        batch.audit = Some(Box::new(audit_row("kv.delete")));
        kit.store.commit(batch).await.unwrap();
    }
    assert_eq!(big.get("c", "k3").await, None);
    assert!(big.delete_app().await.unwrap());
    while reap_step(&*kit.store, 50).await > 0 {}
    eventually("writes are accepted again", async || {
        kit.store.ping().await.is_ok()
    })
    .await;
    assert!(ballast.exists());
    other.set("c", "new", bytes("1")).await;
    assert_eq!(other.value("c", "old").await, Some(bytes("1")));
    // The space is returned to the disk, not only to the file: immediately for what was freed
    // while the reserved space file was missing, and the rest by the upkeep.
    let elsewhere = disk.path().join("else");
    eventually("the disk space is released", async || {
        while kit.store.reclaim_space().await.unwrap() {}
        let written = std::fs::write(&elsewhere, vec![1; 20 * 1024 * 1024]).is_ok();
        if !written {
            std::fs::remove_file(&elsewhere).unwrap();
        }
        written
    })
    .await;
}
