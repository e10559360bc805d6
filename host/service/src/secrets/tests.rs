use super::*;
use crate::{Actor, Admin, AppTokenCache, ServiceError};
use kvasm_core::store::Store;
use kvasm_core::{App, AppLimits, AppName, KeyId, SettingKind, SettingName, SettingValue};
use kvasm_store_memory::MemoryStore;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// A store, and a host with a key file.
struct Scene {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    operator: Actor,
    host: Host,
}

struct Host {
    keyring: Arc<Keyring>,
    admin: Admin,
}

fn name(name: &str) -> SettingName {
    SettingName::parse(name).unwrap()
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let keyring = Keyring::file_or_create(folder.path().join("keys"));
        Scene {
            host: host(&store, keyring),
            folder,
            store,
            operator: Actor::operator("test", Uuid::nil()),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Another host with the same key file, started now.
    fn started_now(&self) -> Host {
        host(&self.store, Keyring::file_or_create(self.path()))
    }

    async fn app(&self, app: &str) -> App {
        let name = AppName::parse(app).unwrap();
        let made = self
            .host
            .admin
            .create_app(&self.operator, name, false)
            .await;
        made.unwrap()
    }

    async fn set(&self, host: &Host, app: &App, key: &str, secret: &str) {
        let set = host
            .admin
            .set_secret(&self.operator, app, name(key), secret.as_bytes());
        set.await.unwrap();
    }

    /// The secret as a host opens it.
    async fn opened(&self, host: &Host, app: &App, key: &str) -> Result<String, SecretsError> {
        let settings = self.store.settings(app.id).await.unwrap();
        let row = settings.find(SettingKind::Secret, key).unwrap();
        let SettingValue::Secret(sealed) = &row.value else {
            panic!("not a secret");
        };
        let opened = host.keyring.open(app.id, &row.name, sealed)?;
        Ok(String::from_utf8(opened.bytes().to_vec()).unwrap())
    }

    async fn rotate(&self, host: &Host, new: NewKey) -> Result<Rotated, ServiceError> {
        rotate_secrets_key(&*self.store, &host.keyring, &self.operator, new).await
    }

    /// The identities of the keys in the file.
    fn keys(&self) -> Vec<KeyId> {
        let (keys, _) = key_file::read(&self.path()).unwrap().unwrap();
        keys.iter().map(|key| key.id()).collect()
    }
}

fn host(store: &Arc<dyn Store>, keyring: Keyring) -> Host {
    let access = AppTokenCache::new(Arc::clone(store), Default::default());
    let keyring = Arc::new(keyring);
    let admin = Admin::new(Arc::clone(store), Arc::new(access), AppLimits::default());
    Host {
        admin: admin.with_keyring(Arc::clone(&keyring)),
        keyring,
    }
}

#[tokio::test]
async fn key_file_is_created_private_with_the_first_secret() {
    let scene = Scene::new();
    let app = scene.app("shop").await;
    assert!(!scene.path().exists());
    scene.set(&scene.host, &app, "a", "hunter2").await;
    #[cfg(unix)]
    {
        let about = scene.path().metadata().unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&about);
        assert_eq!(mode & 0o777, 0o600);
    }
    for host in [&scene.host, &scene.started_now()] {
        assert_eq!(scene.opened(host, &app, "a").await.unwrap(), "hunter2");
    }
    // Nothing else is left in the folder.
    assert_eq!(scene.folder.path().read_dir().unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn key_file_accessible_to_others_is_rejected() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    create_key_file(&scene.path()).unwrap();
    for (mode, is_accepted) in [(0o600, true), (0o440, true), (0o604, false), (0o620, false)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(scene.path(), permissions).unwrap();
        let read = key_file::read(&scene.path());
        assert_eq!(read.is_ok(), is_accepted, "{mode:o}: {read:?}");
    }
}

#[tokio::test]
async fn lost_key_file_is_reported_and_not_replaced() {
    let scene = Scene::new();
    let app = scene.app("shop").await;
    scene.set(&scene.host, &app, "a", "hunter2").await;
    let aside = scene.folder.path().join("aside");
    std::fs::rename(scene.path(), &aside).unwrap();
    let without = scene.started_now();
    let error = scene.opened(&without, &app, "a").await.unwrap_err();
    assert!(matches!(error, SecretsError::KeyFile(_)), "{error:?}");
    let set = without
        .admin
        .set_secret(&scene.operator, &app, name("b"), b"x");
    let error = set.await.unwrap_err();
    assert!(matches!(
        error,
        ServiceError::Secrets(SecretsError::KeyFile(_))
    ));
    assert!(!scene.path().exists());
    std::fs::rename(aside, scene.path()).unwrap();
    assert_eq!(scene.opened(&without, &app, "a").await.unwrap(), "hunter2");
}

#[tokio::test]
async fn wrong_key_is_reported_and_nothing_is_destroyed() {
    let scene = Scene::new();
    let app = scene.app("shop").await;
    scene.set(&scene.host, &app, "a", "hunter2").await;
    let (right, aside) = (scene.keys(), scene.folder.path().join("aside"));
    std::fs::rename(scene.path(), &aside).unwrap();
    let wrong = create_key_file(&scene.path()).unwrap();
    let other = scene.started_now();
    let error = scene.opened(&other, &app, "a").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("another key") && text.contains(&right[0].to_string()),
        "{text}"
    );
    let set = other
        .admin
        .set_secret(&scene.operator, &app, name("b"), b"x");
    let error = set.await.unwrap_err();
    let ServiceError::Secrets(SecretsError::OtherKey { given, current }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((given, current), (wrong, right[0]));
    // A rotation to the wrong key keeps what it cannot open, and every key.
    let rotated = scene.rotate(&other, NewKey::Prepared).await.unwrap();
    assert_eq!(rotated.unreadable, [("shop".to_owned(), "a".to_owned())]);
    scene.set(&other, &app, "b", "new").await;
    std::fs::rename(aside, scene.path()).unwrap();
    assert_eq!(scene.opened(&other, &app, "a").await.unwrap(), "hunter2");
    assert_eq!(scene.opened(&other, &app, "b").await.unwrap(), "new");
}

#[tokio::test]
async fn host_without_a_key_says_what_to_configure() {
    let scene = Scene::new();
    let app = scene.app("shop").await;
    let host = host(&scene.store, Keyring::default());
    let set = host
        .admin
        .set_secret(&scene.operator, &app, name("a"), b"x")
        .await;
    let text = set.unwrap_err().to_string();
    assert!(text.contains("KVASM_SECRETS_KEY_FILE"), "{text}");
    assert!(scene.rotate(&host, NewKey::Generated).await.is_err());
    let missing = Keyring::file(scene.folder.path().join("missing"));
    let sealed = missing.seal(app.id, &name("a"), None, b"x");
    assert!(
        matches!(sealed, Err(SecretsError::KeyFile(_))),
        "{sealed:?}"
    );
}

#[tokio::test]
async fn rotation_reseals_all_secrets_with_one_new_key() {
    let scene = Scene::new();
    let mut apps = Vec::new();
    for number in 0..250 {
        let app = scene.app(&format!("app-{number}")).await;
        if number % 3 == 0 {
            for key in ["a", "b"] {
                scene
                    .set(&scene.host, &app, key, &format!("{key}{number}"))
                    .await;
            }
            apps.push((number, app));
        }
    }
    let (before, old) = (scene.keys(), scene.started_now());
    let rotated = scene.rotate(&scene.host, NewKey::Generated).await.unwrap();
    assert_eq!((rotated.resealed, &rotated.unreadable[..]), (168, &[][..]));
    assert_eq!(scene.keys(), [rotated.key]);
    assert!(!before.contains(&rotated.key));
    // Also a host that has read the old file opens and sets secrets.
    scene.set(&old, &apps[0].1, "c", "later").await;
    for host in [&scene.host, &old, &scene.started_now()] {
        for (number, app) in &apps {
            let opened = scene.opened(host, app, "b").await.unwrap();
            assert_eq!(opened, format!("b{number}"));
        }
        assert_eq!(scene.opened(host, &apps[0].1, "c").await.unwrap(), "later");
    }
    // Nothing is left to do for another run, except that it makes another key.
    let again = scene.rotate(&old, NewKey::Generated).await.unwrap();
    assert_eq!(again.resealed, 169);
}

/// The states in which a rotation may be killed: in each, all hosts open all secrets, and the next
/// rotation completes it.
#[tokio::test]
async fn rotation_interrupted_at_any_point_loses_nothing_and_is_completed() {
    for killed_after in ["the file", "the store", "one app"] {
        let scene = Scene::new();
        let apps = [scene.app("one").await, scene.app("two").await];
        for app in &apps {
            scene.set(&scene.host, app, "a", "hunter2").await;
        }
        let old = scene.started_now();
        // The steps of a rotation.
        let (keys, _) = key_file::read(&scene.path()).unwrap().unwrap();
        let new = key::SecretsKey::generate().unwrap();
        key_file::replace(&scene.path(), &[new.clone(), keys[0].clone()]).unwrap();
        if killed_after != "the file" {
            let audit = scene.operator.audit(
                "secrets.key",
                None,
                kvasm_core::Timestamp::now(),
                serde_json::json!({}),
            );
            assert!(scene.store.set_secrets_key(new.id(), audit).await.unwrap());
        }
        if killed_after == "one app" {
            scene.set(&scene.host, &apps[0], "a", "hunter2").await;
        }
        let restarted = scene.started_now();
        for host in [&scene.host, &old, &restarted] {
            for app in &apps {
                let opened = scene.opened(host, app, "a").await.unwrap();
                assert_eq!(opened, "hunter2", "{killed_after}");
            }
            scene.set(host, &apps[1], "b", "set meanwhile").await;
        }
        let rotated = scene.rotate(&restarted, NewKey::Generated).await.unwrap();
        assert_eq!(rotated.key, new.id(), "{killed_after}");
        assert_eq!(scene.keys(), [new.id()]);
        for host in [&scene.host, &old, &scene.started_now()] {
            for app in &apps {
                assert_eq!(scene.opened(host, app, "a").await.unwrap(), "hunter2");
            }
            let opened = scene.opened(host, &apps[1], "b").await.unwrap();
            assert_eq!(opened, "set meanwhile");
        }
    }
}

#[tokio::test]
async fn prepared_rotation_does_not_change_the_file() {
    let scene = Scene::new();
    let app = scene.app("shop").await;
    scene.set(&scene.host, &app, "a", "hunter2").await;
    let (keys, _) = key_file::read(&scene.path()).unwrap().unwrap();
    let new = key::SecretsKey::generate().unwrap();
    key_file::replace(&scene.path(), &[new.clone(), keys[0].clone()]).unwrap();
    let text = std::fs::read(scene.path()).unwrap();
    let rotated = scene.rotate(&scene.host, NewKey::Prepared).await.unwrap();
    assert_eq!((rotated.key, rotated.resealed), (new.id(), 1));
    assert_eq!(std::fs::read(scene.path()).unwrap(), text);
    key_file::replace(&scene.path(), &[new]).unwrap();
    assert_eq!(
        scene.opened(&scene.started_now(), &app, "a").await.unwrap(),
        "hunter2"
    );
}
