//! Tokens: stored as created, revoked once, deleted with their app.

use super::Kit;
use super::kit::{NOW, Tenant, assert_app_not_found, audit_row, token, token_id};
use super::loop_guard::LoopGuard;
use kvasm_core::store::StoreError;
use kvasm_core::{
    AppId, Audit, Resource, Scope, SecretHash, TOKENS_MAX, Timestamp, Token, TokenId,
};
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

async fn create(kit: &Kit, token: &Token) -> bool {
    let created = kit
        .store
        .create_token(token.clone(), audit_row("test"))
        .await;
    created.expect("a token")
}

async fn find(kit: &Kit, id: TokenId) -> Option<Token> {
    kit.store.token(id).await.expect("token")
}

/// All tokens of an app, or of all apps, in small pages.
async fn listed(kit: &Kit, app: Option<AppId>) -> Vec<Token> {
    let mut all: Vec<Token> = Vec::new();
    let mut rounds = LoopGuard::new();
    loop {
        rounds.next();
        let after = all.last().map(|token| token.id);
        let page = kit.store.tokens(app, after, 3).await.expect("tokens");
        assert!(page.len() <= 3);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Revokes a token at a given time.
async fn revoke(kit: &Kit, app: Option<AppId>, token: TokenId, at: Timestamp) -> bool {
    let audit = Audit {
        at,
        ..audit_row("token.revoke")
    };
    let revoked = kit.store.revoke_token(app, token, audit).await;
    revoked.expect("a revocation")
}

pub async fn created_token_is_read_back_unchanged(kit: Kit) {
    let app = kit.app().await;
    let plain = token("plain", None);
    let mut bound = token("bound", Some(app.id));
    bound.scopes = Scope::ALL.to_vec();
    bound.secret_hash = SecretHash(std::array::from_fn(|at| at as u8 ^ 0xf0));
    bound.created_at = Timestamp(12_345);
    bound.expires_at = Some(Timestamp(67_890));
    let mut odd = token(&"é'\"\\ %\n".repeat(14), Some(app.id));
    odd.scopes = vec![];
    odd.expires_at = Some(Timestamp(i64::MAX));
    let mut revoked = token("", None);
    revoked.scopes = vec![Scope::InstanceAdmin, Scope::AppRead];
    revoked.expires_at = Some(NOW);
    revoked.revoked_at = Some(NOW.plus_ms(1));
    let all = [plain, bound, odd, revoked];
    for token in &all {
        assert_eq!(find(&kit, token.id).await, None);
        assert!(create(&kit, token).await);
    }
    for token in &all {
        assert_eq!(find(&kit, token.id).await.as_ref(), Some(token));
    }
    assert_eq!(listed(&kit, None).await, all);
    assert_eq!(find(&kit, token("other", None).id).await, None);
}

pub async fn token_with_a_taken_id_is_not_created(kit: Kit) {
    let app = kit.app().await;
    let mut first = token("first", None);
    first.expires_at = Some(NOW.plus_ms(1));
    create(&kit, &first).await;
    let mut second = token("second", Some(app.id));
    second.id = first.id;
    second.secret_hash = SecretHash([9; 32]);
    second.scopes = vec![Scope::AppAdmin];
    for revoked_at in [None, Some(NOW)] {
        assert!(!create(&kit, &second).await);
        assert!(!create(&kit, &first).await);
        let expected = Token {
            revoked_at,
            ..first.clone()
        };
        assert_eq!(listed(&kit, None).await, [expected]);
        assert!(listed(&kit, Some(app.id)).await.is_empty());
        // A revoked token still exists, and keeps its identity.
        revoke(&kit, None, first.id, NOW).await;
    }
}

/// Starts callers at the same time, and returns those whose operation took effect.
async fn winners<F: Future<Output = bool> + Send + 'static>(
    callers: usize,
    operation: impl Fn(usize) -> F,
) -> Vec<usize> {
    let start = Arc::new(Barrier::new(callers));
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (operation, start) = (operation(caller), Arc::clone(&start));
        tasks.spawn(async move {
            start.wait().await;
            operation.await.then_some(caller)
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

pub async fn one_concurrent_bootstrap_creates_the_first_token(kit: Kit) {
    let tokens: Vec<_> = (0..16)
        .map(|caller| Token {
            id: TokenId::BOOTSTRAP,
            secret_hash: SecretHash([caller; 32]),
            ..token(&format!("host-{caller}"), None)
        })
        .collect();
    let won = winners(tokens.len(), |caller| {
        let (kit, token) = (kit.clone(), tokens[caller].clone());
        async move { create(&kit, &token).await }
    })
    .await;
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(listed(&kit, None).await, [tokens[won[0]].clone()]);
}

pub async fn one_concurrent_revocation_takes_effect(kit: Kit) {
    for _ in 0..10 {
        let token = token("ci", None);
        create(&kit, &token).await;
        let won = winners(8, |_| {
            let (kit, id) = (kit.clone(), token.id);
            async move { revoke(&kit, None, id, NOW).await }
        })
        .await;
        assert_eq!(won.len(), 1, "{won:?}");
    }
}

pub async fn token_is_revoked_once(kit: Kit) {
    let app = kit.app().await;
    for (bound, by) in [
        (None, None),
        (Some(app.id), None),
        (Some(app.id), Some(app.id)),
    ] {
        let (made, other) = (token("made", bound), token("other", bound));
        for token in [&made, &other] {
            create(&kit, token).await;
        }
        let at = NOW.plus_ms(5);
        assert!(revoke(&kit, by, made.id, at).await);
        let revoked = Token {
            revoked_at: Some(at),
            ..made.clone()
        };
        assert_eq!(find(&kit, made.id).await, Some(revoked.clone()));
        // The time of the first revocation stays.
        let again = revoke(&kit, by, made.id, at.plus_ms(5)).await;
        assert!(!again);
        assert_eq!(find(&kit, made.id).await, Some(revoked));
        assert_eq!(find(&kit, other.id).await, Some(other));
    }
}

pub async fn revoking_an_unknown_token_is_a_no_op(kit: Kit) {
    let (own, other) = (kit.app().await, kit.app().await);
    let (bound, free) = (token("bound", Some(own.id)), token("free", None));
    for token in [&bound, &free] {
        create(&kit, token).await;
    }
    let never = AppId::generate();
    for (app, token) in [
        (None, token("never", None).id),
        (Some(own.id), token("never", None).id),
        // Of another app, and of none.
        (Some(other.id), bound.id),
        (Some(never), bound.id),
        (Some(own.id), free.id),
        (Some(never), free.id),
    ] {
        assert!(!revoke(&kit, app, token, NOW).await);
    }
    assert_eq!(listed(&kit, None).await, [bound, free]);
}

pub async fn token_for_an_unknown_app_is_rejected(kit: Kit) {
    let gone = kit.app().await;
    assert!(kit.delete_app(gone.id).await.unwrap());
    for app in [gone.id, AppId::generate()] {
        let token = token("ci", Some(app));
        let created = kit.store.create_token(token.clone(), audit_row("test"));
        assert_app_not_found(created.await);
        assert_eq!(find(&kit, token.id).await, None);
        assert!(listed(&kit, Some(app)).await.is_empty());
    }
    assert!(listed(&kit, None).await.is_empty());
}

pub async fn tokens_are_listed_in_pages(kit: Kit) {
    let (one, two) = (kit.app().await, kit.app().await);
    let mut rng = kit.rng();
    let mut numbers = vec![0, 1, 255, 256, 1 << 63, 1 << 127, u128::MAX];
    numbers.extend((0..13).map(|_| u128::from(rng.next()) << 64 | u128::from(rng.next())));
    let bound = [None, Some(one.id), Some(two.id)];
    let mut all = Vec::new();
    while !numbers.is_empty() {
        let number = numbers.swap_remove(rng.below(numbers.len()));
        let app = bound[all.len() % bound.len()];
        let token = Token {
            id: token_id(number),
            ..token(&number.to_string(), app)
        };
        assert!(create(&kit, &token).await);
        all.push(token);
    }
    all.sort_by_key(|token| token.id);
    assert_eq!(listed(&kit, None).await, all);
    for app in [one.id, two.id] {
        let of_app = |token: &&Token| token.app == Some(app);
        let own: Vec<_> = all.iter().filter(of_app).cloned().collect();
        assert!(own.len() >= 6);
        assert_eq!(listed(&kit, Some(app)).await, own);
        // The start need not be in the list.
        let after = all.iter().find(|token| token.app.is_none());
        let after = after.expect("a token for all apps").id;
        let page = kit.store.tokens(Some(app), Some(after), 100).await;
        let rest: Vec<_> = own.into_iter().filter(|token| token.id > after).collect();
        assert_eq!(page.unwrap(), rest);
    }
    let never = AppId::generate();
    assert!(listed(&kit, Some(never)).await.is_empty());
    assert!(kit.store.tokens(None, None, 0).await.unwrap().is_empty());
    assert_eq!(kit.store.tokens(None, None, 2).await.unwrap(), all[..2]);
}

pub async fn deleting_an_app_deletes_its_tokens(kit: Kit) {
    let (gone, other, kept) = (kit.app().await, kit.app().await, kit.app().await);
    let mut tokens = Vec::new();
    for app in [Some(gone.id), Some(kept.id), Some(other.id), None] {
        for name in ["a", "b"] {
            let token = token(name, app);
            create(&kit, &token).await;
            tokens.push(token);
        }
    }
    // Revoked tokens are deleted too.
    revoke(&kit, None, tokens[0].id, NOW).await;
    for app in [gone.id, other.id] {
        assert!(kit.delete_app(app).await.unwrap());
    }
    for app in [gone.id, other.id] {
        assert!(listed(&kit, Some(app)).await.is_empty());
    }
    tokens.retain(|token| token.app.is_none_or(|app| app == kept.id));
    assert_eq!(listed(&kit, None).await, tokens);
    assert_eq!(listed(&kit, Some(kept.id)).await, tokens[..2]);
}

/// Creates tokens of an app until it is deleted.
async fn create_until_gone(app: Tenant) {
    loop {
        let token = token("ci", Some(app.id));
        match app.store.create_token(token, app.audit_row("test")).await {
            Ok(true) => {}
            // A fast store may reach the limit first.
            Err(StoreError::Quota { .. }) => tokio::task::yield_now().await,
            Err(StoreError::AppNotFound) => return,
            other => panic!("{other:?}"),
        }
    }
}

pub async fn app_deletion_during_concurrent_token_creation(kit: Kit) {
    for _ in 0..5 {
        let app = kit.app().await;
        let mut makers = JoinSet::new();
        for _ in 0..4 {
            makers.spawn(create_until_gone(app.clone()));
        }
        let made = async || kit.store.tokens(Some(app.id), None, 5).await.unwrap().len();
        while made().await < 5 {
            tokio::task::yield_now().await;
        }
        assert!(kit.delete_app(app.id).await.unwrap());
        assert_eq!(made().await, 0);
        makers.join_all().await;
        assert!(listed(&kit, None).await.is_empty());
    }
}

/// Creates tokens of an app until it has `until`.
async fn fill(kit: &Kit, app: AppId, until: u64) {
    for _ in count(kit, app).await..until {
        assert!(create(kit, &token("ci", Some(app))).await);
    }
}

async fn count(kit: &Kit, app: AppId) -> u64 {
    let tokens = kit.store.tokens(Some(app), None, 2 * TOKENS_MAX as u32);
    tokens.await.expect("tokens").len() as u64
}

/// Creates a token, which may exceed the limit. Returns whether it was created.
async fn try_create(kit: &Kit, token: Token) -> bool {
    match kit.store.create_token(token, audit_row("test")).await {
        Ok(created) => created,
        Err(StoreError::Quota { resource, limit }) => {
            assert_eq!((resource, limit), (Resource::Tokens, TOKENS_MAX));
            false
        }
        other => panic!("{other:?}"),
    }
}

pub async fn tokens_per_app_are_limited(kit: Kit) {
    let (app, other) = (kit.app().await, kit.app().await);
    let expired = Token {
        expires_at: Some(NOW),
        ..token("expired", Some(app.id))
    };
    let kept = Token {
        expires_at: Some(NOW.plus_ms(1)),
        ..token("kept", Some(app.id))
    };
    let revoked = token("revoked", Some(app.id));
    let elsewhere = token("elsewhere", Some(other.id));
    let free = token("free", None);
    for token in [&expired, &kept, &revoked, &elsewhere, &free] {
        assert!(create(&kit, token).await);
    }
    for id in [revoked.id, elsewhere.id, free.id] {
        assert!(revoke(&kit, None, id, NOW).await);
    }
    fill(&kit, app.id, TOKENS_MAX).await;
    // A taken identity uses no slot and frees none.
    assert!(!try_create(&kit, revoked.clone()).await);
    assert_eq!(count(&kit, app.id).await, TOKENS_MAX);
    // The first token over the limit removes the app's void tokens.
    assert!(try_create(&kit, token("ci", Some(app.id))).await);
    for gone in [&expired, &revoked] {
        assert_eq!(find(&kit, gone.id).await, None);
    }
    for there in [&kept, &elsewhere, &free] {
        assert!(find(&kit, there.id).await.is_some());
    }
    assert_eq!(count(&kit, app.id).await, TOKENS_MAX - 1);
    fill(&kit, app.id, TOKENS_MAX).await;
    let refused = token("refused", Some(app.id));
    assert!(!try_create(&kit, refused.clone()).await);
    assert_eq!(find(&kit, refused.id).await, None);
    assert_eq!(count(&kit, app.id).await, TOKENS_MAX);
    // Other apps have their own limit, and a revocation frees a slot.
    for bound in [Some(other.id), None] {
        assert!(create(&kit, &token("ci", bound)).await);
    }
    assert!(revoke(&kit, Some(app.id), kept.id, NOW).await);
    assert!(try_create(&kit, refused).await);
    assert!(!try_create(&kit, token("ci", Some(app.id))).await);
    assert_eq!(count(&kit, app.id).await, TOKENS_MAX);
}

pub async fn concurrent_token_creation_respects_the_limit(kit: Kit) {
    let app = kit.app().await;
    fill(&kit, app.id, TOKENS_MAX - 4).await;
    let race = || {
        winners(16, |_| {
            let (kit, token) = (kit.clone(), token("ci", Some(app.id)));
            async move { try_create(&kit, token).await }
        })
    };
    let won = race().await;
    assert_eq!(won.len(), 4, "{won:?}");
    assert_eq!(count(&kit, app.id).await, TOKENS_MAX);
    // Each revoked token frees one slot, no matter how many callers compete.
    for token in kit.store.tokens(Some(app.id), None, 3).await.unwrap() {
        assert!(revoke(&kit, None, token.id, NOW).await);
    }
    let won = race().await;
    assert_eq!(won.len(), 3, "{won:?}");
    assert_eq!(count(&kit, app.id).await, TOKENS_MAX);
}

/// A token that administers the instance.
fn admin() -> Token {
    Token {
        scopes: vec![Scope::AppAdmin, Scope::InstanceAdmin],
        ..token("admin", None)
    }
}

/// Revokes a token. Returns none if it is the last that administers the instance.
async fn try_revoke(kit: &Kit, token: TokenId) -> Option<bool> {
    let row = audit_row("token.revoke");
    match kit.store.revoke_token(None, token, row).await {
        Ok(revoked) => Some(revoked),
        Err(StoreError::LastAdmin) => None,
        Err(error) => panic!("{error}"),
    }
}

pub async fn last_administrator_token_cannot_be_revoked(kit: Kit) {
    let app = kit.app().await;
    let last = admin();
    let expired = Token {
        expires_at: Some(NOW),
        ..admin()
    };
    let revoked = Token {
        revoked_at: Some(NOW),
        ..admin()
    };
    let bound = Token {
        app: Some(app.id),
        ..admin()
    };
    let other = Token {
        scopes: vec![Scope::AppAdmin],
        ..admin()
    };
    for token in [&last, &expired, &revoked, &bound, &other] {
        assert!(create(&kit, token).await);
    }
    assert_eq!(try_revoke(&kit, last.id).await, None);
    assert_eq!(find(&kit, last.id).await, Some(last.clone()));
    assert_eq!(try_revoke(&kit, revoked.id).await, Some(false));
    // Tokens that do not administer the instance are not protected.
    for token in [&expired, &bound, &other] {
        assert_eq!(try_revoke(&kit, token.id).await, Some(true));
    }
    let second = Token {
        expires_at: Some(NOW.plus_ms(1)),
        ..admin()
    };
    assert!(create(&kit, &second).await);
    assert_eq!(try_revoke(&kit, last.id).await, Some(true));
    assert_eq!(try_revoke(&kit, second.id).await, None);
}

pub async fn administrators_revoking_each_other_leave_one(kit: Kit) {
    for _ in 0..10 {
        let before = listed(&kit, None).await;
        let admins: Vec<_> = (0..6).map(|_| admin()).collect();
        for token in &admins {
            create(&kit, token).await;
        }
        for left in before.iter().filter(|token| token.administers(NOW)) {
            assert_eq!(try_revoke(&kit, left.id).await, Some(true));
        }
        let won = winners(admins.len(), |at| {
            let (kit, id) = (kit.clone(), admins[at].id);
            async move { try_revoke(&kit, id).await == Some(true) }
        })
        .await;
        assert_eq!(won.len(), admins.len() - 1, "{won:?}");
    }
}
