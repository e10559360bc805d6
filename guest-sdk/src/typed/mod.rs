//! Collections with types of keys and values, declared once.
//!
//! ```
//! use kvasm_guest::typed::{Counter, Item, Map};
//!
//! kvasm_guest::collections! {
//!     /// Scores by game and player.
//!     pub SCORES: Map<(String, u32), u64> = "scores";
//!     VISITS: Counter<String> = "visits";
//!     MOTTO: Item<String> = "motto";
//! }
//!
//! SCORES.set(("chess", 7), &10)?;
//! SCORES.set(("chess", 12), &30)?;
//! SCORES.set(("go", 1), &20)?;
//! let chess = SCORES.list().prefix(("chess",));
//! assert_eq!(chess.count()?, 2);
//! let last = chess.last()?.expect("there are two");
//! assert_eq!((last.0, last.1.value), (("chess".to_owned(), 12), 30));
//!
//! SCORES.update(("chess", 7), |score| *score = Some(score.unwrap_or(0) + 5))?;
//! assert_eq!(SCORES.get(("chess", 7))?, Some(15));
//! assert_eq!(VISITS.increment("home", 1)?, 1);
//! MOTTO.set("less is more")?;
//! assert_eq!(MOTTO.get()?.as_deref(), Some("less is more"));
//! # Ok::<(), kvasm_guest::Error>(())
//! ```
//!
//! Two declarations of one name do not compile, also in different modules:
//!
//! ```compile_fail
//! mod users {
//!     kvasm_guest::collections! { USERS: kvasm_guest::typed::Map<String, u32> = "users"; }
//! }
//! kvasm_guest::collections! { PEOPLE: kvasm_guest::typed::Map<u64, u32> = "users"; }
//! ```

mod desc;
mod ids;
mod key;
mod map;
mod query;
mod single;

pub use desc::Desc;
pub use ids::{ParseUuidError, TimeMs, Uuid};
pub use key::{AsKey, AsPart, KeyPart, Leading, TypedKey};
pub use map::Map;
pub use query::{Found, Query, TypedEntries};
pub use single::{Counter, Item};

/// Declares typed collections: `pub USERS: Map<UserId, User> = "users";`.
///
/// A name is declared once in a plugin: a second declaration does not compile or link. The
/// constructors, such as [`Map::new`](crate::typed::Map::new), do not check that.
#[macro_export]
macro_rules! collections {
    ($($(#[$meta:meta])* $vis:vis $ident:ident: $type:ty = $name:literal;)*) => {$(
        $(#[$meta])*
        $vis const $ident: $type = <$type>::new($name);
        const _: () = {
            // The symbol makes a second declaration of the name an error.
            #[allow(unsafe_code)]
            #[unsafe(export_name = concat!("kvasm_collection:", $name))]
            static DECLARED: u8 = 0;
        };
    )*};
}
