//! `kvasm token`.

use super::client::{Pages, RequestPath, connect};
use super::failure::{CommandOutcome, Failure};
use super::token_file::TokenFile;
use super::{Global, output};
use clap::Subcommand;
use kvasm::api::{NewToken, OwnToken, TokenMade, TokenPage};
use kvasm::model::{AppName, Scope, Timestamp};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Create a token, which is shown only once
    #[command(
        after_help = "Example:\n  kvasm token create ci --app shop --scope plugin:deploy --scope app:read --expires 90d"
    )]
    Create {
        /// Name of the token, for people
        name: String,
        /// Scope that the token grants (repeatable)
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// The only app that the token is valid for [default: every app]
        #[arg(long, value_parser = AppName::parse)]
        app: Option<AppName>,
        /// Expire after this time, such as 12h or 90d, or never [default: with the token that
        /// creates it]
        #[arg(long, value_name = "TIME", value_parser = expires)]
        expires: Option<Expires>,
        /// Write the token to this new file instead of printing it
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Show the token in use, and what it grants
    Show,
    /// List tokens
    List {
        /// Only tokens of this app
        #[arg(long, value_parser = AppName::parse)]
        app: Option<AppName>,
    },
    /// Revoke a token
    Revoke {
        /// Id of the token
        id: String,
        /// App of the token, if you administer only that app
        #[arg(long, value_parser = AppName::parse)]
        app: Option<AppName>,
    },
}

/// The time until a token expires; `None` for never.
#[derive(Clone, Copy)]
pub(super) struct Expires(Option<Duration>);

fn expires(text: &str) -> Result<Expires, String> {
    match text {
        "never" => Ok(Expires(None)),
        text => match humantime::parse_duration(text) {
            Ok(after) => Ok(Expires(Some(after))),
            Err(e) => Err(format!("{e}; write it like 12h or 90d, or never")),
        },
    }
}

/// The path of what belongs to an app, or to the instance.
pub(super) fn path(app: Option<&AppName>, rest: &[&str]) -> RequestPath {
    match app {
        Some(app) => RequestPath::app(app, rest),
        None => RequestPath::new(&[&["v1"], rest].concat()),
    }
}

/// A token, with one line for each property.
fn shown(own: &OwnToken) -> String {
    let id = own
        .id
        .as_deref()
        .unwrap_or("none: direct access to the store");
    let app = own.app.as_deref().unwrap_or("every app");
    let expires = own.expires_at.map(output::time);
    let expires = expires.unwrap_or_else(|| "never".to_owned());
    format!(
        "id       {id}\nname     {}\nscopes   {}\napp      {app}\nexpires  {expires}",
        own.name,
        own.scopes.join(" "),
    )
}

pub(super) async fn run(global: &Global, command: TokenCommand) -> Result<CommandOutcome, Failure> {
    let client = connect(global).await?;
    match command {
        TokenCommand::Create {
            name,
            scopes,
            app,
            expires,
            token_file,
        } => {
            let file = token_file.as_deref().map(TokenFile::create).transpose()?;
            let expires_at = expires.map(|Expires(after)| {
                let ms = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                after.map(|after| Timestamp::now().plus_ms(ms(after)).0)
            });
            let new = NewToken {
                name,
                scopes: scopes.iter().map(ToString::to_string).collect(),
                expires_at,
            };
            let path = path(app.as_ref(), &["tokens"]);
            let made: TokenMade = client.post("POST", &path, &new).await?;
            if let (Some(file), Some(path)) = (file, &token_file) {
                file.write(&made.secret)?;
                let view = json!({ "token": made.token, "file": path });
                return output::object(global.json, &view, || {
                    let (id, path) = (&made.token.id, path.display());
                    format!("Token {id} is in {path}.")
                })
                .map(|()| CommandOutcome::Done);
            }
            if !global.json {
                output::note(&format!("Token {}. It is not shown again:", made.token.id));
            }
            output::object(global.json, &json!(made), || made.secret.clone())?;
        }
        TokenCommand::Show => {
            let own: OwnToken = client.get(&RequestPath::new(&["v1", "token"])).await?;
            output::object(global.json, &json!(own), || shown(&own))?;
        }
        TokenCommand::List { app } => {
            let mut tokens = Vec::new();
            let mut pages = Pages::default();
            let mut after = None;
            loop {
                let page: TokenPage = client
                    .get(&path(app.as_ref(), &["tokens"]).with("after", after))
                    .await?;
                tokens.extend(page.tokens);
                after = pages.next(page.next)?;
                if after.is_none() {
                    break;
                }
            }
            if global.json {
                output::json(&tokens)?;
                return Ok(CommandOutcome::Done);
            }
            let rows = tokens.into_iter().map(|token| {
                let state = match (token.revoked_at, token.expires_at) {
                    (Some(_), _) => "revoked".to_owned(),
                    (None, Some(at)) if at <= Timestamp::now().0 => "expired".to_owned(),
                    (None, Some(at)) => format!("until {}", output::time(at)),
                    (None, None) => "valid".to_owned(),
                };
                let app = token.app.unwrap_or_else(|| "every app".to_owned());
                [token.id, token.name, token.scopes.join(" "), app, state]
            });
            output::table(["ID", "NAME", "SCOPES", "APP", "STATE"], rows)?;
        }
        TokenCommand::Revoke { id, app } => {
            client.delete(&path(app.as_ref(), &["tokens", &id])).await?;
            output::object(global.json, &json!({ "revoked": id }), || {
                format!("Revoked {id}.")
            })?;
        }
    }
    Ok(CommandOutcome::Done)
}
