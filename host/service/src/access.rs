//! Cached apps and tokens, validated against the registry's generation. Rationale and
//! correctness: `docs/decisions/0024-access-by-generation.md`.

use super::coalesce::Coalescer;
use kvasm_core::store::{Store, StoreError};
use kvasm_core::{App, AppId, AppName, Generation, Token, TokenId};
use kvasm_metrics::Metrics;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Maximum number of cached apps by name, of apps by id, and of tokens. A row is less than 1
/// KiB: names are bounded.
const ROWS_MAX: usize = 10_000;

/// The generation of the registry that a request has seen. Everything read for one request with
/// the same value may be as old as that, and no older than the request.
#[derive(Debug, Default)]
pub struct SeenGeneration(Option<Generation>);

/// A cache of apps and tokens that is always as current as the store.
///
/// Each row is cached with a generation of the registry from before it was read. It is valid
/// while the store still has that generation. Each request checks the generation; concurrent
/// requests share a check. So a request sees every change that was acknowledged, on any host,
/// before it arrived.
pub struct AppTokenCache {
    store: Arc<dyn Store>,
    metrics: Metrics,
    looks: Coalescer<Result<Generation, Arc<StoreError>>>,
    rows: Mutex<Rows>,
}

struct Rows {
    /// The last known generation of the store.
    last: Option<Generation>,
    names: TwoGenerationCache<AppName, App>,
    apps: TwoGenerationCache<AppId, App>,
    tokens: TwoGenerationCache<TokenId, Token>,
}

impl AppTokenCache {
    /// Creates an empty cache over a store.
    pub fn new(store: Arc<dyn Store>, metrics: Metrics) -> AppTokenCache {
        AppTokenCache {
            store,
            metrics,
            looks: Coalescer::default(),
            rows: Mutex::new(Rows {
                last: None,
                names: TwoGenerationCache::new(ROWS_MAX),
                apps: TwoGenerationCache::new(ROWS_MAX),
                tokens: TwoGenerationCache::new(ROWS_MAX),
            }),
        }
    }

    /// Whether an app of this name was recently read, and so exists or did a moment ago.
    pub fn has_seen(&self, name: &AppName) -> bool {
        self.rows.lock().names.get(name).is_some()
    }

    /// Returns the app of a name, if it exists.
    ///
    /// # Errors
    /// A store error, of a read or of the generation check.
    pub async fn app(
        &self,
        seen: &mut SeenGeneration,
        name: &AppName,
    ) -> Result<Option<Arc<App>>, StoreError> {
        let read = self.store.app(name);
        self.row(seen, name, |rows| &mut rows.names, read).await
    }

    /// Returns the app of an id, if it exists.
    ///
    /// # Errors
    /// As [`app`](AppTokenCache::app).
    pub async fn app_by_id(
        &self,
        seen: &mut SeenGeneration,
        app: AppId,
    ) -> Result<Option<Arc<App>>, StoreError> {
        let read = self.store.app_by_id(app);
        self.row(seen, &app, |rows| &mut rows.apps, read).await
    }

    /// Returns a token, if it exists, valid or not.
    ///
    /// # Errors
    /// As [`app`](AppTokenCache::app).
    pub async fn token(
        &self,
        seen: &mut SeenGeneration,
        id: TokenId,
    ) -> Result<Option<Arc<Token>>, StoreError> {
        let read = self.store.token(id);
        self.row(seen, &id, |rows| &mut rows.tokens, read).await
    }

    /// Returns a row, from the cache if the store still has its generation.
    async fn row<K: Hash + Eq + Clone, V>(
        &self,
        seen: &mut SeenGeneration,
        key: &K,
        kept: impl Fn(&mut Rows) -> &mut TwoGenerationCache<K, V>,
        read: impl Future<Output = Result<Option<V>, StoreError>>,
    ) -> Result<Option<Arc<V>>, StoreError> {
        let is_kept = kept(&mut self.rows.lock()).get(key).is_some();
        let at = match self.before(seen, is_kept) {
            Some(generation) => generation,
            None => self.check_generation(seen).await?,
        };
        // A concurrent request may have read it during the check.
        if seen.0.is_some()
            && let Some((row, read_at)) = kept(&mut self.rows.lock()).get(key)
            && read_at == at
        {
            self.metrics.access("hit");
            return Ok(Some(row));
        }
        self.metrics.access("miss");
        let row = read.await?.map(Arc::new);
        let mut rows = self.rows.lock();
        match &row {
            Some(row) => kept(&mut rows).put(key.clone(), (Arc::clone(row), at)),
            None => kept(&mut rows).remove(key),
        }
        Ok(row)
    }

    /// Returns a generation from before this call, if a suitable one is known. A row that is not
    /// cached is read from the store in any case, so any generation will do: unauthenticated
    /// callers who ask for absent rows cause no checks.
    fn before(&self, seen: &SeenGeneration, is_kept: bool) -> Option<Generation> {
        match is_kept {
            true => seen.0,
            false => seen.0.or(self.rows.lock().last),
        }
    }

    /// Checks the store's current generation, and records it as seen by the request.
    async fn check_generation(&self, seen: &mut SeenGeneration) -> Result<Generation, StoreError> {
        let look = || {
            self.metrics.access("look");
            let store = Arc::clone(&self.store);
            async move { store.generation().await.map_err(Arc::new) }
        };
        let generation = self.looks.look(look).await.map_err(shared)?;
        self.rows.lock().last = Some(generation);
        seen.0 = Some(generation);
        Ok(generation)
    }
}

/// The cause of an error that several requests share.
#[derive(Debug)]
struct CacheState(Arc<StoreError>);

impl std::fmt::Display for CacheState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::error::Error::source(&*self.0) {
            Some(cause) => write!(f, "{cause}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl std::error::Error for CacheState {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)?.source()
    }
}

/// Returns an error of the same kind with the same cause.
fn shared(error: Arc<StoreError>) -> StoreError {
    match &*error {
        StoreError::Full(_) => StoreError::Full(CacheState(error).into()),
        StoreError::Unavailable(_) => StoreError::Unavailable(CacheState(error).into()),
        // Reads return no other errors.
        _ => StoreError::Failed(CacheState(error).into()),
    }
}

/// A bounded cache of rows with their generations. When full, it evicts about half of its rows,
/// the least recently used.
struct TwoGenerationCache<K, V> {
    young: HashMap<K, Row<V>>,
    /// Not used since the last rotation.
    old: HashMap<K, Row<V>>,
    /// Maximum size of each map.
    half: usize,
}

type Row<V> = (Arc<V>, Generation);

impl<K: Hash + Eq + Clone, V> TwoGenerationCache<K, V> {
    fn new(rows: usize) -> TwoGenerationCache<K, V> {
        TwoGenerationCache {
            young: HashMap::new(),
            old: HashMap::new(),
            half: rows / 2,
        }
    }

    fn get(&mut self, key: &K) -> Option<Row<V>> {
        if let Some((key, row)) = self.old.remove_entry(key) {
            self.put(key, row);
        }
        self.young.get(key).cloned()
    }

    fn put(&mut self, key: K, row: Row<V>) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, row);
    }

    fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Actor, Admin};
    use kvasm_core::{AppLimits, CursorKey, Timestamp};
    use kvasm_store_memory::MemoryStore;
    use uuid::Uuid;

    fn counted(metrics: &Metrics, name: &str) -> u64 {
        let text = metrics.encode();
        let line = format!("kvasm_access_total{{name=\"{name}\"}} ");
        let count = text.lines().find_map(|found| found.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
    }

    fn name(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    struct Scene {
        metrics: Metrics,
        access: Arc<AppTokenCache>,
        admin: Admin,
        operator: Actor,
    }

    impl Scene {
        fn new() -> Scene {
            let metrics = Metrics::default();
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
            let access = Arc::new(AppTokenCache::new(Arc::clone(&store), metrics.clone()));
            let admin = Admin::new(store, Arc::clone(&access), AppLimits::default());
            Scene {
                metrics,
                access,
                admin,
                operator: Actor::operator("test", Uuid::nil()),
            }
        }

        fn counts(&self) -> (u64, u64, u64) {
            let count = |name| counted(&self.metrics, name);
            (count("hit"), count("miss"), count("look"))
        }
    }

    #[tokio::test]
    async fn cached_row_is_read_once_per_generation() {
        let scene = Scene::new();
        let made = scene.admin.create_app(&scene.operator, name("shop"), false);
        let app = made.await.unwrap();
        let ask = async || {
            let row = scene
                .access
                .app(&mut SeenGeneration::default(), &app.name)
                .await;
            row.unwrap().unwrap().public
        };
        for _ in 0..10 {
            assert!(!ask().await);
        }
        assert_eq!(scene.counts(), (9, 1, 10));
        let public = scene.admin.set_public(&scene.operator, &app, true).await;
        assert!(public.unwrap().public);
        for _ in 0..10 {
            assert!(ask().await);
        }
        assert_eq!(scene.counts(), (18, 2, 20));
    }

    /// The generation seen first is valid for everything that the request reads.
    #[tokio::test]
    async fn request_checks_generation_once() {
        let scene = Scene::new();
        let made = scene.admin.create_app(&scene.operator, name("shop"), false);
        let app = made.await.unwrap();
        for _ in 0..10 {
            let mut seen = SeenGeneration::default();
            let by_name = scene.access.app(&mut seen, &app.name).await.unwrap();
            let by_id = scene.access.app_by_id(&mut seen, app.id).await.unwrap();
            assert_eq!(by_name.unwrap().id, by_id.unwrap().id);
        }
        assert_eq!(scene.counts(), (18, 2, 10));
    }

    #[tokio::test]
    async fn unknown_names_are_not_cached_and_cause_no_checks() {
        let scene = Scene::new();
        for n in 0..100_000 {
            let mut seen = SeenGeneration::default();
            let app = name(&format!("app-{n}"));
            let absent = scene.access.app(&mut seen, &app).await;
            assert!(absent.unwrap().is_none());
            let token = TokenId(Uuid::now_v7());
            let absent = scene.access.token(&mut seen, token).await;
            assert!(absent.unwrap().is_none());
        }
        let rows = scene.access.rows.lock();
        assert_eq!((rows.names.len(), rows.tokens.len()), (0, 0));
        // At most one, before any generation is known.
        assert!(counted(&scene.metrics, "look") <= 1);
    }

    #[test]
    fn row_cache_is_bounded_and_keeps_rows_in_use() {
        let mut kept = TwoGenerationCache::new(ROWS_MAX);
        let app = Arc::new(App {
            id: AppId::generate(),
            name: name("shop"),
            created_at: Timestamp(0),
            cursor_key: CursorKey::new([0; CursorKey::BYTES]),
            public: false,
            limits: AppLimits::default(),
            active: None,
            settings: None,
        });
        let row = || (Arc::clone(&app), Generation(Uuid::nil()));
        kept.put(0, row());
        for n in 1..100_000 {
            kept.put(n, row());
            assert!(kept.get(&0).is_some(), "{n}");
            assert!(kept.len() <= ROWS_MAX);
        }
        assert!(kept.get(&99_999).is_some());
        assert!(kept.get(&1).is_none());
    }

    #[test]
    fn shared_store_error_keeps_kind_and_causes() {
        use crate::error_chain;
        let cause = std::io::Error::other("the cause");
        let one = StoreError::Unavailable(cause.into());
        let text = error_chain(&one);
        let many = shared(Arc::new(one));
        assert!(matches!(many, StoreError::Unavailable(_)));
        assert_eq!(error_chain(&many), text);
        let many = shared(Arc::new(StoreError::Failed("bad".into())));
        assert!(matches!(many, StoreError::Failed(_)), "{many:?}");
    }
}
