//! Authentication and administration of tokens.

use super::{Actor, Admin, SeenGeneration, ServiceError};
use kvasm_core::store::StoreError;
use kvasm_core::{
    App, AppId, BearerToken, Capability, Invalid, Scope, Subject, Timestamp, Token, TokenId,
    TokenSecret,
};
use serde_json::json;
use thiserror::Error;
use uuid::Uuid;

/// A token to create.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// A name for people: 1 to 128 bytes.
    pub name: String,
    /// Its scopes; at least one.
    pub scopes: Vec<Scope>,
    /// When it expires, if ever.
    pub expires_at: Expiry,
}

/// When a new token expires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expiry {
    /// When the creator's token expires: never, if that does not expire.
    #[default]
    WithMaker,
    /// Never.
    Never,
    /// At this time.
    At(Timestamp),
}

impl From<Option<Timestamp>> for Expiry {
    fn from(at: Option<Timestamp>) -> Expiry {
        at.map_or(Expiry::WithMaker, Expiry::At)
    }
}

impl Expiry {
    /// Resolves the time, for a creator whose token expires at `makers`.
    ///
    /// # Errors
    /// [`ServiceError::LifetimeExceeded`] if that is later than `makers`, unless
    /// `is_instance_admin`.
    fn resolve(
        self,
        makers: Option<Timestamp>,
        is_instance_admin: bool,
    ) -> Result<Option<Timestamp>, ServiceError> {
        let (at, outlasts) = match (self, makers) {
            (Expiry::WithMaker, makers) => (makers, false),
            (Expiry::Never, makers) => (None, makers.is_some()),
            (Expiry::At(at), makers) => (Some(at), makers.is_some_and(|makers| at > makers)),
        };
        match makers {
            Some(makers) if outlasts && !is_instance_admin => {
                Err(ServiceError::LifetimeExceeded(makers))
            }
            Some(_) | None => Ok(at),
        }
    }
}

/// A failed authentication.
#[derive(Debug, Error)]
pub enum Unauthenticated {
    /// The token is unknown, revoked or expired; the caller does not learn which.
    #[error("the token is not valid: it is unknown, expired or revoked")]
    Invalid,
    /// The store failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl Admin {
    /// Authenticates a bearer token against the current state of the store.
    ///
    /// # Errors
    /// [`Unauthenticated`].
    pub async fn authenticate(
        &self,
        seen: &mut SeenGeneration,
        bearer: &str,
        request_id: Uuid,
    ) -> Result<Actor, Unauthenticated> {
        let bearer = BearerToken::parse(bearer).ok_or(Unauthenticated::Invalid)?;
        let token = self.access.token(seen, bearer.id).await;
        let token = token.map_err(ServiceError::from)?;
        match token {
            Some(token)
                if token.secret_hash.is_of(&bearer.secret) && token.is_valid(Timestamp::now()) =>
            {
                Ok(Actor::of_token(&token, request_id))
            }
            Some(_) | None => Err(Unauthenticated::Invalid),
        }
    }

    /// Creates a token, bound to an app if one is given. Its secret is only in the return value.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `instance:admin`, or for a bound token without
    /// `app:admin` of its app. In the latter case the token can only grant the actor's own
    /// scopes ([`ServiceError::ScopeExceeded`]), and must not outlive the actor's own token
    /// ([`ServiceError::LifetimeExceeded`]). [`ServiceError::Quota`] if the app has
    /// [`TOKENS_MAX`](kvasm_core::TOKENS_MAX) tokens that are neither revoked nor expired.
    pub async fn create_token(
        &self,
        actor: &Actor,
        app: Option<&App>,
        new: TokenSpec,
    ) -> Result<(Token, BearerToken), ServiceError> {
        may_manage(actor, app)?;
        let is_instance_admin = actor.require(Capability::InstanceAdmin).is_ok();
        let own = actor.principal().scopes();
        if let Some(scope) = new.scopes.iter().find(|scope| !own.contains(scope))
            && !is_instance_admin
        {
            return Err(ServiceError::ScopeExceeded(*scope));
        }
        validate(&new)?;
        let expires_at = new.expires_at;
        let expires_at = expires_at.resolve(actor.expires_at(), is_instance_admin)?;
        let id = TokenId(Uuid::now_v7());
        let (token, bearer) = generate(id, app.map(|app| app.id), new, expires_at)?;
        let detail = json!({
            "token": token.id.to_string(),
            "name": token.name,
            "scopes": token.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
            "expires_at": token.expires_at,
        });
        let audit = actor.audit("token.create", app, token.created_at, detail);
        // Always inserted: the id is new.
        self.store.create_token(token.clone(), audit).await?;
        Ok((token, bearer))
    }

    /// Returns the tokens of an app, or all, starting after `after`.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] without `instance:admin`, or `app:admin` of the app.
    pub async fn tokens(
        &self,
        actor: &Actor,
        app: Option<&App>,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<Token>, ServiceError> {
        may_manage(actor, app)?;
        Ok(self
            .store
            .tokens(app.map(|app| app.id), after, limit)
            .await?)
    }

    /// Revokes a token: calls that start later are not authenticated by it.
    ///
    /// # Errors
    /// [`ServiceError::Denied`] as [`tokens`](Admin::tokens);
    /// [`ServiceError::TokenNotFound`]; [`ServiceError::LastAdmin`] for the last valid token
    /// with `instance:admin` for all apps.
    pub async fn revoke_token(
        &self,
        actor: &Actor,
        app: Option<&App>,
        token: TokenId,
    ) -> Result<(), ServiceError> {
        may_manage(actor, app)?;
        let detail = json!({ "token": token.to_string() });
        let audit = actor.audit("token.revoke", app, Timestamp::now(), detail);
        let app = app.map(|app| app.id);
        match self.store.revoke_token(app, token, audit).await? {
            true => Ok(()),
            false => Err(ServiceError::TokenNotFound),
        }
    }

    /// Whether the first token of the store has been created. It may have been revoked since.
    ///
    /// # Errors
    /// A store error.
    pub async fn is_bootstrapped(&self) -> Result<bool, ServiceError> {
        for id in [TokenId::BOOTSTRAP, TokenId::OLD_BOOTSTRAP] {
            if self.store.token(id).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Creates the first token of a store, with all scopes. Returns `None` if the store already
    /// had one, even if it is revoked.
    ///
    /// # Errors
    /// A store error.
    pub async fn bootstrap(&self) -> Result<Option<BearerToken>, ServiceError> {
        if self.is_bootstrapped().await? {
            return Ok(None);
        }
        let new = TokenSpec {
            name: "bootstrap".to_owned(),
            scopes: Scope::ALL.to_vec(),
            expires_at: Expiry::Never,
        };
        let (token, bearer) = generate(TokenId::BOOTSTRAP, None, new, None)?;
        let actor = Actor::operator("first start", Uuid::now_v7());
        let audit = actor.audit("token.bootstrap", None, token.created_at, json!({}));
        // Another host may have been faster: then the id is taken.
        let is_first = self.store.create_token(token, audit).await?;
        Ok(is_first.then_some(bearer))
    }
}

fn may_manage(actor: &Actor, app: Option<&App>) -> Result<(), ServiceError> {
    match app {
        None => actor.require(Capability::InstanceAdmin),
        Some(app) => actor.require(Capability::AppAdmin(app.id)),
    }
}

fn validate(new: &TokenSpec) -> Result<(), Invalid> {
    if new.name.is_empty() {
        return Err(Invalid::Empty(Subject::TokenName));
    }
    if new.name.len() > Token::NAME_BYTES_MAX {
        return Err(Invalid::TooLarge {
            subject: Subject::TokenName,
            len: new.name.len() as u64,
            limit: Token::NAME_BYTES_MAX as u64,
        });
    }
    if let Some(found) = new.name.chars().find(|c| c.is_control()) {
        return Err(Invalid::Character {
            subject: Subject::TokenName,
            found,
            allowed: "all but control characters",
        });
    }
    if new.scopes.is_empty() {
        return Err(Invalid::Empty(Subject::Scopes));
    }
    Ok(())
}

fn generate(
    id: TokenId,
    app: Option<AppId>,
    new: TokenSpec,
    expires_at: Option<Timestamp>,
) -> Result<(Token, BearerToken), StoreError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| StoreError::Failed(e.into()))?;
    let bearer = BearerToken {
        id,
        secret: TokenSecret::new(secret),
    };
    let mut scopes = new.scopes;
    scopes.sort_unstable_by_key(|scope| scope.as_str());
    scopes.dedup();
    let token = Token {
        id,
        secret_hash: bearer.secret.hash(),
        name: new.name,
        scopes,
        app,
        created_at: Timestamp::now(),
        expires_at,
        revoked_at: None,
    };
    Ok((token, bearer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_cannot_outlive_its_creator_unless_instance_admin() {
        let at = |ms| Some(Timestamp(ms));
        let resolve = |expiry: Expiry, makers, is_admin| expiry.resolve(makers, is_admin).ok();
        for is_admin in [false, true] {
            assert_eq!(resolve(Expiry::WithMaker, None, is_admin), Some(None));
            assert_eq!(resolve(Expiry::WithMaker, at(5), is_admin), Some(at(5)));
            assert_eq!(resolve(Expiry::Never, None, is_admin), Some(None));
            let before = Expiry::At(Timestamp(5));
            assert_eq!(resolve(before, at(5), is_admin), Some(at(5)));
            assert_eq!(resolve(before, None, is_admin), Some(at(5)));
        }
        let later = Expiry::At(Timestamp(6));
        assert_eq!(resolve(later, at(5), false), None);
        assert_eq!(resolve(Expiry::Never, at(5), false), None);
        assert_eq!(resolve(later, at(5), true), Some(at(6)));
        assert_eq!(resolve(Expiry::Never, at(5), true), Some(None));
    }
}
